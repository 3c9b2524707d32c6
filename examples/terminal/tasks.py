"""The tasks: what the agent is told, what lies in its sandbox at the start, and the test that it never sees."""

TASKS = [
    {
        "id": "count-errors",
        "prompt": "In /workspace/app.log, count the lines whose level is ERROR (not those that only mention the word) and "
                  "write the number alone to /workspace/answer.txt.",
        "files": {
            "/workspace/app.log": "\n".join(
                f"2026-01-01T00:00:{i % 60:02d} {'ERROR' if i % 7 == 0 else 'INFO'} worker {i}: "
                f"{'request failed' if i % 7 == 0 else 'no ERROR seen'}"
                for i in range(200)
            ) + "\n",
        },
        "test": "answer = open('/workspace/answer.txt').read().strip()\n"
                "assert answer == '29', f'expected 29, got {answer!r}'\n",
    },
    {
        "id": "repair-median",
        "prompt": "/workspace/stats.py has a function median() that is wrong for lists of even length and that changes the "
                  "list it is given. Repair it.",
        "files": {
            "/workspace/stats.py": "def median(values):\n    values.sort()\n    return values[len(values) // 2]\n",
        },
        "test": "import sys\nsys.path.insert(0, '/workspace')\nfrom stats import median\n"
                "assert median([3, 1, 2]) == 2\nassert median([4, 1, 3, 2]) == 2.5\n"
                "given = [3, 1, 2]\nmedian(given)\nassert given == [3, 1, 2], 'the list was changed'\n",
    },
    {
        "id": "primes",
        "prompt": "Write /workspace/primes.py: run as `python3 primes.py N`, it prints the primes up to and including N, one a "
                  "line, and nothing for N below 2.",
        "files": {},
        "test": "import subprocess, sys\n"
                "def run(n):\n"
                "    return subprocess.run([sys.executable, '/workspace/primes.py', str(n)], capture_output=True, text=True,\n"
                "                          timeout=20, check=True).stdout.split()\n"
                "assert run(13) == ['2', '3', '5', '7', '11', '13'], run(13)\n"
                "assert run(1) == []\n",
    },
]
