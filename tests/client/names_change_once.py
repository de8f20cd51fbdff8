#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later
"""names_change_once.py DIRECTORY WORKERS PROGRESS STOP

Changes names in DIRECTORY, by WORKERS processes in a directory each, until the file STOP is there.
Every change must succeed, and every change only once: a name that is made must not have been there,
one that is moved or removed must be. Tells in the file PROGRESS how many rounds there were. Ends with
status 1 at the first surprise.
"""
import os
import sys


def work(base, stop, progress):
    rounds = 0
    while not os.path.exists(stop):
        at = lambda name: os.path.join(base, f"{name}.{rounds}")
        os.mkdir(at("d"))
        os.rename(at("d"), at("e"))
        os.close(os.open(at("f"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.link(at("f"), at("g"))
        os.rename(at("f"), os.path.join(at("e"), "h"))
        os.symlink("nowhere", at("s"))
        if sorted(os.listdir(base)) != sorted(f"{n}.{rounds}" for n in "egs"):
            raise RuntimeError(f"{base} has {os.listdir(base)}")
        os.unlink(at("s"))
        os.unlink(at("g"))
        os.unlink(os.path.join(at("e"), "h"))
        os.rmdir(at("e"))
        rounds += 1
        with open(f"{progress}.new", "w", encoding="ascii") as file:
            file.write(f"{rounds}\n")
        os.rename(f"{progress}.new", progress)


def main():
    directory, workers, progress, stop = sys.argv[1:]
    children = []
    for number in range(int(workers)):
        base = os.path.join(directory, f"worker{number}")
        os.mkdir(base)
        child = os.fork()
        if child == 0:
            try:
                work(base, stop, f"{progress}.{number}")
                os.rmdir(base)
            except (OSError, RuntimeError) as error:
                print(f"worker {number}: {error}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children.append(child)
    failed = 0
    for child in children:
        failed += os.waitpid(child, 0)[1] != 0
    sys.exit(1 if failed else 0)


main()
