# SPDX-License-Identifier: MIT
"""A process is killed while it holds a lock; the others hear of it instead of hanging.

Only sidestep can do this: with `multiprocessing`, acquire() below would wait for ever.
"""

import os
import signal

import sidestep


def hold_and_die(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    lock = sidestep.Lock()
    process = sidestep.Process(target=hold_and_die, args=(lock,))
    process.start()
    process.join()
    print("exit code:", process.exitcode)

    # start-recover
    try:
        lock.acquire()
    except sidestep.OwnerDied as error:
        print("acquire:", type(error).__name__)
        lock.recover()  # after having looked at what the lock protects
    with lock:
        print("the lock works again")
    # end-recover


if __name__ == "__main__":
    main()
