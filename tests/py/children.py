# SPDX-License-Identifier: MIT
"""What children do in the tests; importable, for spawn and forkserver."""

import os
import signal
import time
import warnings


def die():
    """End as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def put_all(queue, items):
    for item in items:
        queue.put(item)


def put_forever(queue):
    for i in range(1 << 60):
        queue.put(i)


def echo_queue(requests, replies):
    for item in iter(requests.get, None):
        replies.put(item)


def work_on(queue):
    for _ in iter(queue.get, None):
        queue.task_done()
    queue.task_done()


def get_and_die(queue, got):
    queue.get()
    got.set()
    die()


def get_and_tell(queue, ready, out):
    ready.set()
    out.send(queue.get())


def put_bytes(queue, size, count):
    for _ in range(count):
        queue.put(b"x" * size)


def put_and_exit(queue, size):
    queue.put(os.urandom(16) * (size // 16))


def echo_pipe(conn):
    for item in iter(conn.recv, "stop"):
        conn.send(item)


def send_all(conn, items):
    for item in items:
        conn.send(item)
    conn.close()


def send_and_die(conn, item):
    conn.send(item)
    die()


def use_passed(conn):
    """Receive connections; answer on each what came over it."""
    for other in iter(conn.recv, None):
        other.send(("got", other.recv()))
        other.close()


def read_passed_fd(conn):
    from sidestep import reduction

    fd = reduction.recv_handle(conn)
    conn.send(os.read(fd, 100))
    os.close(fd)


def read_passed_socket(conn):
    sock = conn.recv()
    conn.send(sock.recv(100))
    sock.close()


def serve_listener(address_queue, family, authkey, security=None):
    from sidestep.connection import Listener

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of security="stdlib"
        listener = Listener(
            family=family,
            authkey=authkey,
            security=security,
            # Python 3.11 has no other proof.
            legacy_md5=security == "stdlib" or None,
        )
    with listener:
        address_queue.put(listener.address)
        with listener.accept() as conn:
            conn.send(conn.recv())


def acquire_and_tell(lock, conn):
    lock.acquire()
    conn.send("held")
    conn.recv()
    lock.release()
    conn.send("released")


def acquire_and_die(lock):
    lock.acquire()
    die()


def acquire_and_exit(lock):
    lock.acquire()


def acquire_once(lock, ready, got):
    ready.set()
    with lock:
        got.set()


def count_with_lock(lock, value, times):
    for _ in range(times):
        with lock:
            value.value += 1


def count_atomically(value, times):
    for _ in range(times):
        value.fetch_add(1)


def wait_for_condition(cond, entered, woken):
    with cond:
        entered.release()
        cond.wait()
    woken.release()


def wait_for_event(event, ready, woken):
    ready.release()
    event.wait()
    woken.release()


def wait_at_barrier(barrier, out):
    from threading import BrokenBarrierError

    try:
        out.put(barrier.wait())
    except BrokenBarrierError:
        out.put("broken")


def write_values(value, array, structure):
    value.value = 42
    array[0] = -1
    array[1:3] = [7, 8]
    structure.x, structure.y = 1.5, 2.5


def write_plain(value, array, text):
    value.value = 42
    array[0] = -1
    array[1:3] = [7, 8]
    text.value = b"hello"


def write_buffer(wrapper):
    wrapper.create_memoryview()[:5] = b"hello"


def level_of_logger(conn):
    from sidestep import get_logger

    conn.send(get_logger().getEffectiveLevel())


def run_finalizers(conn):
    from sidestep import util

    for name, priority in (("a", 1), ("b", 0), ("c", 0), ("d", -1)):
        util.Finalize(None, conn.send, args=(name,), exitpriority=priority)
    util._exit_function()
    os._exit(0)


def nap(seconds):
    time.sleep(seconds)


def square(x):
    return x * x


def call_all(requests, replies):
    for function, argument in iter(requests.get, None):
        replies.put(function(argument))


def change(obj):
    """Do something to an object that another view of it shows."""
    name = type(obj).__name__
    if name in {"Lock", "RLock", "Semaphore", "BoundedSemaphore"}:
        obj.acquire()
    elif name == "Condition":
        obj._lock.acquire()
    elif name == "Event":
        obj.set()
    elif name == "Barrier":
        obj.abort()
    elif name.endswith("Queue"):
        obj.put("changed")
    elif name == "Synchronized" or (name.startswith("c_int") and hasattr(obj, "value")):
        obj.value += 1
    else:
        obj[0] = b"T" if name == "SynchronizedString" else 9


def show(obj):
    """Tell what `change` changes."""
    name = type(obj).__name__
    if hasattr(obj, "_get_value"):
        return obj._get_value()
    if name == "Condition":
        return obj._lock._get_value()
    if name == "Event":
        return obj.is_set()
    if name == "Barrier":
        return obj.broken
    if name.endswith("Queue"):
        return obj.empty()
    if hasattr(obj, "value") and not name.startswith("SynchronizedString"):
        return obj.value
    return obj[:]


def change_all(requests, replies):
    for obj in iter(requests.get, None):
        change(obj)
        replies.put((obj, show(obj)))


def send_objects_and_die(queue):
    import sidestep

    inner = sidestep.Queue()
    inner.put("inside")
    queue.put([sidestep.Lock(), inner, sidestep.Value("i", 42)])
    die()


def add_and_tell(objects):
    lock, value, more = objects
    with lock:
        value.get_obj().value += 1
    more["queue"].put(value.value)


def make_and_send(post, answer):
    import sidestep

    mine = sidestep.Queue()
    post.put(mine)
    answer.put(mine.get())


def answer_in(post):
    post.get().put("answered")


def read_descriptors(queue, answers):
    dup, sock, conn, stream = queue.get()
    fd = dup.detach()
    answers.put([os.read(fd, 10), sock.recv(10), conn.recv()])
    os.close(fd)
    sock.close()
    conn.close()
    stream.close()


def send_descriptor_and_end(queue, what):
    import socket

    import sidestep
    from sidestep import reduction

    if what == "fd":
        queue.put(reduction.DupFd(1))
    elif what == "socket":
        queue.put(socket.socketpair()[0])
    else:
        queue.put(sidestep.Pipe()[0])


def take_descriptor(queue):
    taken = queue.get(timeout=20)
    if hasattr(taken, "detach"):
        taken.detach()
