# SPDX-License-Identifier: MIT
"""One program, on this machine or on many: only the pool is made in another way.

python anywhere.py              workers of this machine
python anywhere.py executor     any concurrent.futures.Executor
python anywhere.py dask         a Dask cluster of its own, encrypted
python anywhere.py tls://...    a Dask scheduler somewhere
mpiexec -n 5 python -m sidestep.mpi anywhere.py mpi
"""

import math
import sys

import sidestep


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def make_pool(where):
    if where == "here":
        return sidestep.Pool(2)
    if where == "executor":
        return sidestep.Pool(cluster=sidestep.ProcessPoolExecutor(2))
    return sidestep.Pool(cluster=where)


def main():
    where = sys.argv[1] if len(sys.argv) > 1 else "here"
    with make_pool(where) as pool:
        print("primes below 10000:", sum(pool.map(is_prime, range(10_000))))
        try:
            pool.apply(math.sqrt, (-1,))
        except ValueError as error:
            print("and an error is an error:", type(error).__name__)
        pool.close()
        pool.join()


if __name__ == "__main__":
    main()
