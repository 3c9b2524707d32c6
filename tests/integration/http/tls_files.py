"""Certificates of the tests' own, made by openssl: an authority, and servers that it vouches for."""
import os
import subprocess


def run(*argv):
    done = subprocess.run(["openssl", *argv], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


class Authority:
    """CA certificate at .ca; pair(name) gives the paths of a certificate and its key for localhost and 127.0.0.1, the same for
    the same name."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.ca, self.ca_key = self.path("ca.pem"), self.path("ca.key")
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.ca_key, "-out", self.ca,
            "-days", "30", "-subj", "/CN=tests", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")

    def path(self, name):
        return os.path.join(self.folder, name)

    def pair(self, name, rsa=False):
        cert, key, request, extra = (self.path(f"{name}.{end}") for end in ("pem", "key", "csr", "ext"))
        if os.path.exists(cert):
            return cert, key
        kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        run("req", "-newkey", *kind, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        with open(extra, "w", encoding="ascii") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", "30", "-out", cert,
            "-extfile", extra)
        return cert, key
