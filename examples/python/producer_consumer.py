# SPDX-License-Identifier: MIT
"""Producers and consumers around a bounded JoinableQueue: join() waits for the work."""

import multiprocessing

PRODUCERS = 2
CONSUMERS = 3
TASKS = 500


def produce(tasks, first):
    for number in range(first, first + TASKS):
        tasks.put(number)  # waits while 10 are under way


def consume(tasks, total):
    while True:
        number = tasks.get()
        with total.get_lock():
            total.value += number
        tasks.task_done()


def main():
    tasks = multiprocessing.JoinableQueue(maxsize=10)
    total = multiprocessing.Value("q", 0)
    consumers = [
        multiprocessing.Process(target=consume, args=(tasks, total), daemon=True)
        for _ in range(CONSUMERS)
    ]
    producers = [
        multiprocessing.Process(target=produce, args=(tasks, first * TASKS))
        for first in range(PRODUCERS)
    ]
    for process in consumers + producers:
        process.start()
    for producer in producers:
        producer.join()
    tasks.join()  # every task was taken, and task_done() was called for it

    print("sum of the tasks:", total.value)
    assert total.value == sum(range(PRODUCERS * TASKS))
    for consumer in consumers:  # daemonic: they would end with us anyway
        consumer.terminate()
        consumer.join()


if __name__ == "__main__":
    main()
