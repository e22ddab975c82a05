# SPDX-License-Identifier: MIT
"""Ask several calculators through pipes, and answer whoever is ready first."""

import multiprocessing
from multiprocessing.connection import wait

CALCULATORS = 3


def calculate(connection):
    """Answer (operation, arguments) until None comes."""
    operations = {"add": sum, "longest": lambda words: max(words, key=len)}
    for name, arguments in iter(connection.recv, None):
        try:
            connection.send(operations[name](arguments))
        except (KeyError, ValueError) as error:
            connection.send(error)
    connection.close()


def main():
    questions = [
        ("add", [1, 2, 3]),
        ("longest", ["pipe", "connection", "end"]),
        ("divide", [1, 0]),
    ]
    ends = {}
    processes = []
    for question in questions:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=calculate, args=(theirs,))
        process.start()
        theirs.close()
        processes.append(process)
        ends[ours] = question

    for end, question in ends.items():
        end.send(question)
    answers = {}
    waiting = list(ends)
    while waiting:
        for end in wait(waiting):
            answers[ends[end][0]] = end.recv()
            end.send(None)
            waiting.remove(end)
            end.close()
    for name, answer in sorted(answers.items()):
        print(f"{name}: {answer!r}")
    for process in processes:
        process.join()
        assert process.exitcode == 0, process


if __name__ == "__main__":
    main()
