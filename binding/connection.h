/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_CONNECTION_H
#define SSTPY_CONNECTION_H

/* What connection.c (the object), connection_send.c and connection_recv.c share. */

#include "args.h"
#include "state.h"
#include "transport.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_pipe *pipe;             /* an end of a pipe of ours, or NULL: */
    int fd;                            /* a byte stream; -1 when there is none */
    struct sstpy_transport *transport; /* what moves its bytes, or NULL: read, write */
    bool readable;
    bool writable;
    bool closed;    /* closed, or never opened */
    uint32_t users; /* threads inside a call that may block */
    struct sst_stream_progress
        progress;                /* of a message whose receiving was broken off */
    struct sst_stream_look look; /* of who receives with a transport */
    PyObject
        *partial; /* bytes of its size, filled as far as `progress` says; or NULL */
    unsigned long epoch; /* of fork, to which `users` belongs */
    PyObject *loads;     /* what unpickles for this peer; NULL: the registered one */
    int64_t size_max;    /* of a message that comes; < 0: any */
} ConnectionObject;

/* Everything but the pointers into the core is guarded by the GIL. While `users` is not
 * zero neither `pipe` nor `fd` goes away; who leaves last after a close() closes them.
 * */

/* -1 with the stdlib's OSError set. */
int sstpy_connection_check_readable(const ConnectionObject *self);
int sstpy_connection_check_writable(const ConnectionObject *self);

void sstpy_connection_pin(ConnectionObject *self);
void sstpy_connection_unpin(ConnectionObject *self);

/* What moves the bytes of its stream; NULL: its descriptor does. */
static inline const struct sst_stream_io *
sstpy_connection_io(const ConnectionObject *self)
{
    return self->transport != NULL ? &self->transport->io : NULL;
}

/* Close as close() does. -1 with OSError set when the descriptor could not be closed.
 * */
int sstpy_connection_close(ConnectionObject *self);

/* connection_send.c */
extern const char sstpy_connection_send_doc[];
extern const char sstpy_connection_send_bytes_doc[];
PyObject *sstpy_connection_send(PyObject *self, PyObject *obj);
PyObject *sstpy_connection_send_bytes(PyObject *self, PyObject *const *args,
                                      Py_ssize_t nargs, PyObject *kwnames);

/* connection_recv.c */
extern const char sstpy_connection_recv_doc[];
extern const char sstpy_connection_recv_bytes_doc[];
extern const char sstpy_connection_recv_bytes_into_doc[];
extern const char sstpy_connection_poll_doc[];
extern const char sstpy_connection_pending_doc[];
PyObject *sstpy_connection_recv(PyObject *self, PyObject *ignored);
PyObject *sstpy_connection_recv_bytes(PyObject *self, PyObject *const *args,
                                      Py_ssize_t nargs, PyObject *kwnames);
PyObject *sstpy_connection_recv_bytes_into(PyObject *self, PyObject *const *args,
                                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *sstpy_connection_poll(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *sstpy_connection_pending(PyObject *self, PyObject *ignored);

#endif
