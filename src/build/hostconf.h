/* build/hostconf.h: the package client configuration of this machine, made usable inside a container.
 *
 * Builds inherit what the host's own clients (pip, npm, apt, cargo, go, git, curl) are configured with: CA bundle,
 * registries, mirrors, proxies, credentials for registries. hostconf_stage copies it into a folder, together with the
 * environment that points there; the folder is mounted read-only for the time of a RUN step (or into a sandbox where
 * the operator says so), so nothing of it is ever part of an image. Only what makes sense inside goes along: a setting
 * that is a path of this machine is replaced by a staged copy (CA bundles) or left out (pip's find-links to a folder).
 *
 * env, everywhere below: NULL-terminated "K=V", the environment that the host's clients would see. Root only, for the
 * files of root's home. No state; blocking. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

#define HOSTCONF_TARGET \
	"/dev/.openreward-host" /* in RUN steps: /dev is a tmpfs there, so no mount point stays in a layer */

/* Those variables of this process that hostconf cares for: what `serve` hands on to root jobs (build_conf.host_env).
 * The caller frees with strv_free. */
char **hostconf_snapshot(void);

/* Fills the folder dir (made, 0755; its files 0644). *ret_env: "K=V" for processes inside, where the folder is mounted
 * at target; proxies are not in it (see hostconf_proxies). The caller frees with strv_free. */
MUST_CHECK int hostconf_stage(const char *dir, const char *target, const char *const *env, char ***ret_env,
			      struct err *err);

/* The proxy variables of env, in both cases of letters. The caller frees with strv_free. */
char **hostconf_proxies(const char *const *env);

/* Host names that builds need: those of every configured registry, mirror and proxy, and the public defaults
 * (PyPI, npm, Debian, crates.io, the Go proxy). Sorted, no duplicates, lower case; "name" or "address", no port.
 * The caller frees with strv_free. */
char **hostconf_hosts(const char *const *env);
