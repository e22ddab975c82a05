# SPDX-License-Identifier: MIT
"""Functions that have no name of their own, sent to processes that were not forked."""

import sidestep as mp


def call(requests, replies):
    for function, argument in iter(requests.get, None):
        replies.put(function(argument))


def scaled_by(factor):
    return lambda number: number * factor


def main():
    ctx = mp.get_context("spawn")
    requests, replies = ctx.Queue(), ctx.Queue()
    worker = ctx.Process(target=call, args=(requests, replies))
    worker.start()
    for factor in (2, 3):
        requests.put((scaled_by(factor), 21))
    print(replies.get(), replies.get())
    requests.put(None)
    worker.join()


if __name__ == "__main__":
    main()
