# SPDX-License-Identifier: MIT
"""Exchange messages with a C program, examples/c/exchange.c, through two queues.

Give the path of the compiled program: python exchange.py build/examples/c/exchange
Without one, a second Python process plays its part.
"""

import os
import subprocess
import sys

import sidestep
from sidestep import _core

WORDS = ["drawer", "stressed", "live"]


def start_program(program, questions, answers):
    """Start the C program; it gets the arena as a descriptor, and handles as text."""
    arena = os.dup(_core.arena_fd())  # our own is closed on exec
    command = [program, str(arena), questions.handle.hex(), answers.handle.hex()]
    peer = subprocess.Popen(command, pass_fds=[arena])
    os.close(arena)
    return peer


def answer(questions_handle, answers_handle):
    """Do what the C program does."""
    questions = _core.Queue.from_handle(questions_handle)
    answers = _core.Queue.from_handle(answers_handle)
    for question in iter(questions.get_bytes, b""):
        answers.put_bytes(question[::-1])


def main():
    questions = _core.Queue()
    answers = _core.Queue()
    if len(sys.argv) > 1:
        peer = start_program(sys.argv[1], questions, answers)
        wait = peer.wait
    else:
        handles = (questions.handle, answers.handle)
        peer = sidestep.Process(target=answer, args=handles)
        peer.start()
        wait = peer.join
    for word in WORDS:
        questions.put_bytes(word.encode())
    questions.put_bytes(b"")  # that was all
    for word in WORDS:
        print(f"{word}, reversed: {answers.get_bytes(timeout=20).decode()}")
    wait()


if __name__ == "__main__":
    main()
