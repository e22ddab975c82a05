/* SPDX-License-Identifier: MIT */

/* Reading a message whose buffers lie beside its pickle: nothing is copied.
 *
 *     array -> memoryview -> _View -> _Message   the buffers in the message's parcel,
 *                                                and the pickle
 *     array -> memoryview -> _View -> _Parcel    those in a parcel of their own
 *
 * A view holds what it looks at and nothing else, so who keeps one array of many keeps
 * its parcel alone; when the last view of a parcel goes so does this process's hold. In
 * a forked child the holds are the child's own.
 *
 * Who wrote the message may write into it still, if it wants to: so the head and each
 * row are copied once and checked as copies. Pickles are trusted as pickles are;
 * nothing else is: no offset, size or place leads out of a parcel that the message
 * holds. */

#include "buffers.h"

#include <stddef.h>
#include <string.h>

#include "compat.h"
#include "errors.h"
#include "pickle.h"

/* ---- Owners of memory ---- */

/* A large message: it lives as long as somebody looks at it. */
typedef struct {
    PyObject_HEAD
    struct sst_message message; /* owned */
    const void *payload;        /* into it: what the buffer of this object shows */
    Py_ssize_t size;
} MessageObject;

PyObject *
sstpy_message_take(struct sstpy_state *state, struct sst_message *message,
                   uint64_t offset, uint64_t size)
{
    PyTypeObject *const type = state->message_type;
    MessageObject *const self = (MessageObject *)type->tp_alloc(type, 0);

    if (self == NULL) {
        return NULL;
    }
    self->message = *message;
    if (message->data == message->small) {
        self->message.data = self->message.small; /* it moved with the struct */
    }
    self->payload = (const char *)self->message.data + offset;
    self->size = (Py_ssize_t)size;
    memset(message, 0, offsetof(struct sst_message, small));
    return (PyObject *)self;
}

static int
message_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    const MessageObject *const self = (MessageObject *)obj;

    return PyBuffer_FillInfo(view, obj, (void *)self->payload, self->size, 1, flags);
}

static void
message_dealloc(PyObject *obj)
{
    sst_message_free(&((MessageObject *)obj)->message);
    sstpy_free(obj);
}

static PyType_Slot message_slots[] = {
    {Py_bf_getbuffer, message_getbuffer},
    {Py_tp_dealloc, message_dealloc},
    {0, NULL},
};

static PyType_Spec message_spec = {
    .name = "sidestep._core._Message",
    .basicsize = sizeof(MessageObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = message_slots,
};

typedef struct {
    PyObject_HEAD
    struct sst_parcel *parcel; /* owned */
} ParcelObject;

static PyObject *
parcel_open(struct sstpy_state *state, const struct sst_handle *handle)
{
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_error err = {0};

    if (arena == NULL) {
        return NULL;
    }

    PyTypeObject *const type = state->parcel_type;
    ParcelObject *const self = (ParcelObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }

    const int rc = sst_parcel_attach(arena, handle, &self->parcel, &err);
    if (rc < 0) {
        self->parcel = NULL;
        Py_DECREF(self);
        return sstpy_raise(state, rc, &err);
    }
    return (PyObject *)self;
}

static void
parcel_dealloc(PyObject *obj)
{
    (void)sst_parcel_close(((ParcelObject *)obj)->parcel);
    sstpy_free(obj);
}

static PyType_Slot parcel_slots[] = {
    {Py_tp_dealloc, parcel_dealloc},
    {0, NULL},
};

static PyType_Spec parcel_spec = {
    .name = "sidestep._core._Parcel",
    .basicsize = sizeof(ParcelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parcel_slots,
};

/* ---- Views ---- */

typedef struct {
    PyObject_HEAD
    PyObject *owner; /* of the memory */
    void *data;
    Py_ssize_t size;
    bool readonly;
} ViewObject;

/* A memoryview of a part of what `owner` has. */
static PyObject *
view_new(struct sstpy_state *state, PyObject *owner, void *data, uint64_t size,
         bool readonly)
{
    PyTypeObject *const type = state->view_type;
    ViewObject *const self = (ViewObject *)type->tp_alloc(type, 0);

    if (self == NULL) {
        return NULL;
    }
    self->owner = Py_NewRef(owner);
    self->data = data;
    self->size = (Py_ssize_t)size;
    self->readonly = readonly;

    PyObject *const memoryview = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF(self);
    return memoryview;
}

static int
view_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    const ViewObject *const self = (ViewObject *)obj;

    return PyBuffer_FillInfo(view, obj, self->data, self->size, self->readonly, flags);
}

static void
view_dealloc(PyObject *obj)
{
    Py_XDECREF(((ViewObject *)obj)->owner);
    sstpy_free(obj);
}

static PyType_Slot view_slots[] = {
    {Py_bf_getbuffer, view_getbuffer},
    {Py_tp_dealloc, view_dealloc},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "sidestep._core._View",
    .basicsize = sizeof(ViewObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

/* ---- Reading ---- */

/* What is read of a message, and what keeps it there. */
struct reader {
    struct sstpy_state *state;
    struct sst_message *message;
    struct sst_parcel *parcel; /* the message's, or NULL */
    const char *data;
    uint64_t size;
    struct sstpy_buffers_head head;
    uint64_t pickle; /* where it begins */
    PyObject *whole; /* the message as an object, once it was taken */
    uint32_t place;  /* of the parcel opened last, */
    PyObject *last;  /* and that */
};

static PyObject *
reader_bad(const char *what)
{
    PyErr_Format(PyExc_ValueError,
                 "the message is damaged: %s lies outside of it (SST_ECORRUPT)", what);
    return NULL;
}

static int
reader_begin(struct reader *reader)
{
    if (reader->size < sizeof(reader->head)) {
        (void)reader_bad("its head");
        return -1;
    }
    memcpy(&reader->head, reader->data, sizeof(reader->head));

    uint64_t left = reader->size - sizeof(reader->head);
    if (reader->head.count > left / sizeof(struct sstpy_buffers_row)) {
        (void)reader_bad("its table");
        return -1;
    }
    left -= reader->head.count * sizeof(struct sstpy_buffers_row);
    reader->pickle = reader->size - left;
    if (reader->head.pickle_size > left || reader->head.pickle_size > PY_SSIZE_T_MAX) {
        (void)reader_bad("its pickle");
        return -1;
    }
    return 0;
}

/* The message as an object that owns it, which shows the pickle. Borrowed. */
static PyObject *
reader_whole(struct reader *reader)
{
    if (reader->whole == NULL) {
        reader->whole = sstpy_message_take(reader->state, reader->message,
                                           reader->pickle, reader->head.pickle_size);
        if (reader->whole != NULL) {
            const MessageObject *const taken = (const MessageObject *)reader->whole;
            reader->message = &((MessageObject *)reader->whole)->message;
            reader->data = taken->message.data;
        }
    }
    return reader->whole;
}

/* The parcel in a place of the message's. Borrowed until the next one is asked for. */
static PyObject *
reader_parcel(struct reader *reader, uint32_t place)
{
    struct sst_handle handle;

    if (reader->last != NULL && reader->place == place) {
        return reader->last;
    }
    if (reader->parcel == NULL ||
        sst_parcel_handle_at(reader->parcel, place - 1, &handle) < 0) {
        return reader_bad("a parcel");
    }
    Py_XSETREF(reader->last, parcel_open(reader->state, &handle));
    reader->place = place;
    return reader->last;
}

static PyObject *
reader_view(struct reader *reader, const struct sstpy_buffers_row *row)
{
    PyObject *const owner =
        row->parcel == 0 ? reader_whole(reader) : reader_parcel(reader, row->parcel);
    char *data = NULL;
    uint64_t size = 0;

    if (owner == NULL) {
        return NULL;
    }
    if (row->parcel == 0) {
        data = (char *)reader->message->data;
        size = reader->size;
    }
    else {
        const struct sst_parcel *const parcel = ((ParcelObject *)owner)->parcel;
        data = sst_parcel_data(parcel);
        size = sst_parcel_size(parcel);
    }
    if (row->offset > size || row->size > size - row->offset ||
        row->size > PY_SSIZE_T_MAX || (row->flags & ~SSTPY_ROW_READONLY) != 0) {
        return reader_bad("a buffer");
    }
    return view_new(reader->state, owner, data + row->offset, row->size,
                    (row->flags & SSTPY_ROW_READONLY) != 0);
}

/* A list of memoryviews. */
static PyObject *
reader_buffers(struct reader *reader)
{
    PyObject *const list = PyList_New((Py_ssize_t)reader->head.count);

    if (list == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < reader->head.count; i++) {
        struct sstpy_buffers_row row;

        memcpy(&row, reader->data + sizeof(reader->head) + i * sizeof(row),
               sizeof(row));
        PyObject *const view = reader_view(reader, &row);
        if (view == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, view);
    }
    return list;
}

/* The pickle: a small one is copied, so that nothing keeps the message alive. */
static PyObject *
reader_pickle(struct reader *reader)
{
    if (reader->whole == NULL &&
        reader->head.pickle_size <= sizeof(reader->message->small)) {
        return PyBytes_FromStringAndSize(reader->data + reader->pickle,
                                         (Py_ssize_t)reader->head.pickle_size);
    }

    PyObject *const whole = reader_whole(reader);
    return whole != NULL ? PyMemoryView_FromObject(whole) : NULL;
}

PyObject *
sstpy_buffers_decode(struct sstpy_state *state, struct sst_message *message, bool again)
{
    struct reader reader = {
        .state = state,
        .message = message,
        .parcel = sst_message_parcel(message),
        .data = message->data,
        .size = message->size,
    };
    PyObject *obj = NULL;

    if (reader_begin(&reader) < 0) {
        return NULL;
    }

    PyObject *const buffers = reader.head.count > 0 ? reader_buffers(&reader) : NULL;
    Py_CLEAR(reader.last); /* the views have it */
    if (buffers != NULL || reader.head.count == 0) {
        PyObject *const pickle = reader_pickle(&reader);
        if (pickle != NULL) {
            obj = sstpy_unpickle_whole(state, pickle, buffers, again);
            Py_DECREF(pickle);
        }
    }
    Py_XDECREF(buffers);
    Py_XDECREF(reader.whole);
    return obj;
}

int
sstpy_buffers_open_exec(PyObject *module, struct sstpy_state *state)
{
    if (sstpy_type_add(module, &message_spec, &state->message_type) < 0 ||
        sstpy_type_add(module, &parcel_spec, &state->parcel_type) < 0) {
        return -1;
    }
    return sstpy_type_add(module, &view_spec, &state->view_type);
}
