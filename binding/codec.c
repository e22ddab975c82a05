/* SPDX-License-Identifier: MIT */

/* The codec: what a message's bytes mean.
 *
 * A message is a tag byte and a payload. The tags are letters; a first byte from 0x80
 * up is kept for later versions of the format and refused by this one.
 *
 *   N  None            -
 *   T  True            -
 *   F  False           -
 *   i  int             8 bytes, little endian, two's complement
 *   d  float           8 bytes, IEEE 754, little endian
 *   s  str             UTF-8
 *   b  bytes           as they are
 *   n  plain nest      exact built-in containers, large ints, any str (nest_*.c)
 *   P  anything else   a pickle, made and read by the registered functions
 *   B  the same        a pickle, with buffers beside it or objects that travel along
 *                      (buffers.c, buffers_open.c)
 *   R  raw             what Connection.send_bytes sent
 *
 * Only exact types have tags of their own: a subclass is more than its value. Encoding
 * comes first and may run Python code; the commit afterwards runs none, so a message is
 * either put whole or not at all, and a put from a signal handler or a finalizer meets
 * no half-done put of its own thread.
 *
 * Nothing large is copied twice: the payload of a str, bytes or pickle is a slice of
 * the object's own memory, and a large pickle is read where the message lies, through a
 * memoryview that owns the message.
 *
 * What arrives is not trusted to be well-formed: sizes are checked before they are
 * used. */

#include "codec.h"

#include <string.h>

#include "buffers.h"
#include "compat.h"
#include "errors.h"
#include "nest.h"
#include "pickle.h"

enum tag {
    TAG_NONE = 'N',
    TAG_TRUE = 'T',
    TAG_FALSE = 'F',
    TAG_INT = 'i',
    TAG_FLOAT = 'd',
    TAG_STR = 's',
    TAG_BYTES = 'b',
    TAG_NEST = 'n',
    TAG_PICKLE = 'P',
    TAG_BUFFERS = SSTPY_TAG_BUFFERS,
    TAG_RAW = 'R',
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "numbers are copied as they are");

/* ---- Encoding ---- */

static int
encode_fixed(struct sstpy_encoded *out, enum tag tag, const void *payload, size_t size)
{
    out->small[0] = (unsigned char)tag;
    memcpy(out->small + 1, payload, size);
    out->slices[0] = (struct sst_slice){out->small, size + 1};
    out->count = 1;
    out->size = size + 1;
    return 0;
}

/* A payload of any size, which stays where it is when it is large. */
static int
encode_payload(struct sstpy_encoded *out, enum tag tag, const void *payload,
               uint64_t size)
{
    if (size <= SSTPY_ENCODED_SMALL) {
        return encode_fixed(out, tag, payload, (size_t)size);
    }
    out->small[0] = (unsigned char)tag;
    out->slices[0] = (struct sst_slice){out->small, 1};
    out->slices[1] = (struct sst_slice){payload, size};
    out->count = 2;
    out->size = size + 1;
    return 0;
}

/* A pickle as its pickler wrote it, part by part. */
static int
encode_parts(const struct sstpy_pickle_file *file, enum tag tag,
             struct sstpy_encoded *out)
{
    out->small[0] = (unsigned char)tag;
    out->slices[0] = (struct sst_slice){out->small, 1};
    for (Py_ssize_t i = 0; i < file->count; i++) {
        PyObject *const part = file->parts[i];
        out->slices[i + 1] = (struct sst_slice){PyBytes_AS_STRING(part),
                                                (uint64_t)PyBytes_GET_SIZE(part)};
    }
    out->count = (uint32_t)file->count + 1;
    out->size = file->size + 1;
    return 0;
}

/* Takes `pickled`. */
static int
encode_pickled(const struct sstpy_state *state, PyObject *pickled, enum tag tag,
               struct sstpy_encoded *out)
{
    out->owner = pickled; /* from now on the message's */
    if (sstpy_is_pickle_file(state, pickled) &&
        ((const struct sstpy_pickle_file *)pickled)->size > SSTPY_ENCODED_SMALL) {
        return encode_parts((const struct sstpy_pickle_file *)pickled, tag, out);
    }
    if (PyObject_GetBuffer(pickled, &out->view, PyBUF_SIMPLE) < 0) {
        out->view.obj = NULL;
        return SSTPY_RAISED;
    }
    return encode_payload(out, tag, out->view.buf, (uint64_t)out->view.len);
}

/* Whether it needs a parcel: for buffers, for what it holds, for its many parts. */
static bool
needs_parcel(const struct sstpy_state *state, const struct sstpy_making *making,
             const struct sstpy_collector *collector, PyObject *pickled)
{
    return collector->count > 0 || making->parcel != NULL ||
           (sstpy_is_pickle_file(state, pickled) &&
            ((const struct sstpy_pickle_file *)pickled)->count >= SST_SLICES_MAX);
}

static int
encode_pickle(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    struct sstpy_collector *const collector = sstpy_collector_new(state);
    struct sstpy_making making;

    if (collector == NULL) {
        return SSTPY_RAISED;
    }
    sstpy_making_begin(&making, collector);
    PyObject *const pickled = sstpy_pickle(state, obj, (PyObject *)collector);
    sstpy_making_end(&making);
    sstpy_collector_close(collector);

    int rc = SSTPY_RAISED;
    if (pickled == NULL) {
        (void)sst_parcel_close(making.parcel);
    }
    else if (needs_parcel(state, &making, collector, pickled)) {
        rc = sstpy_buffers_encode(state, pickled, collector, making.parcel, out);
        Py_DECREF(pickled);
    }
    else {
        rc = encode_pickled(state, pickled, TAG_PICKLE, out);
    }
    if (rc < 0 || out->parcel != NULL) {
        /* a traceback, or a pickler that lives on, has it, too: let go of buffers */
        sstpy_collector_clear(collector);
    }
    Py_DECREF(collector);
    return rc;
}

/* A nest if it is one, or the pickle. */
static int
encode_other(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    struct sstpy_nest nest = {.slices = out->slices};
    const int rc = sstpy_nest_encode(state, obj, TAG_NEST, &nest);

    if (rc == 0) {
        return encode_pickle(state, obj, out);
    }
    if (rc < 0) {
        return SSTPY_RAISED;
    }
    out->nest = nest.scratch;
    out->count = nest.count;
    out->size = nest.size;
    return 0;
}

static int
encode_str(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    if (PyUnicode_IS_ASCII(obj)) {
        /* its characters are its UTF-8: no cache is made in the object */
        return encode_payload(out, TAG_STR, PyUnicode_DATA(obj),
                              (uint64_t)PyUnicode_GET_LENGTH(obj));
    }

    PyObject *const utf8 = PyUnicode_AsUTF8String(obj);
    if (utf8 == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return SSTPY_RAISED;
        }
        PyErr_Clear();
        return encode_other(state, obj, out); /* lone surrogates */
    }
    out->owner = utf8;
    return encode_payload(out, TAG_STR, PyBytes_AS_STRING(utf8),
                          (uint64_t)PyBytes_GET_SIZE(utf8));
}

static int
encode_int(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(obj, &overflow);

    if (overflow != 0) {
        return encode_other(state, obj, out);
    }
    return encode_fixed(out, TAG_INT, &value, sizeof(value));
}

static int
encode_any(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    if (PyLong_CheckExact(obj)) {
        return encode_int(state, obj, out);
    }
    if (obj == Py_None) {
        return encode_fixed(out, TAG_NONE, "", 0);
    }
    if (PyUnicode_CheckExact(obj)) {
        return encode_str(state, obj, out);
    }
    if (PyBytes_CheckExact(obj)) {
        return encode_payload(out, TAG_BYTES, PyBytes_AS_STRING(obj),
                              (uint64_t)PyBytes_GET_SIZE(obj));
    }
    if (PyFloat_CheckExact(obj)) {
        const double value = PyFloat_AS_DOUBLE(obj);
        return encode_fixed(out, TAG_FLOAT, &value, sizeof(value));
    }
    if (PyBool_Check(obj)) {
        return encode_fixed(out, obj == Py_True ? TAG_TRUE : TAG_FALSE, "", 0);
    }
    return encode_other(state, obj, out);
}

static void
encode_begin(struct sstpy_encoded *out)
{
    out->parcel = NULL;
    out->count = 0;
    out->size = 0;
    out->nest = NULL;
    out->owner = NULL;
    out->view.obj = NULL;
}

/* Copy a very long message into a parcel now: faster than the core would, and signals
 * are looked at. Without memory for it the slices stay, and the core says what it
 * thinks of them. */
static int
encode_large(struct sstpy_state *state, struct sstpy_encoded *out)
{
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_parcel *parcel = NULL;

    if (arena == NULL) {
        return SSTPY_RAISED;
    }
    if (sst_parcel_create(arena, out->size, 0, &parcel, NULL) < 0) {
        return 0;
    }

    char *to = sst_parcel_data(parcel);
    for (uint32_t i = 0; i < out->count; i++) {
        if (sstpy_copy_checked(to, out->slices[i].data, out->slices[i].size) < 0) {
            (void)sst_parcel_close(parcel);
            return SSTPY_RAISED;
        }
        to += out->slices[i].size;
    }
    out->parcel = parcel;
    out->count = 0;
    out->size = 0;
    return 0;
}

int
sstpy_encode(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out)
{
    encode_begin(out);

    int rc = encode_any(state, obj, out);
    if (rc == 0 && out->size >= SSTPY_HELPED_SIZE) {
        rc = encode_large(state, out);
    }
    if (rc < 0) {
        sstpy_encoded_release(out);
    }
    return rc;
}

int
sstpy_encode_raw(struct sstpy_state *state, const void *data, uint64_t size,
                 struct sstpy_encoded *out)
{
    encode_begin(out);
    (void)encode_payload(out, TAG_RAW, data, size);
    return out->size >= SSTPY_HELPED_SIZE ? encode_large(state, out) : 0;
}

void
sstpy_encode_whole(const void *data, uint64_t size, struct sstpy_encoded *out)
{
    encode_begin(out);
    out->slices[0] = (struct sst_slice){data, size};
    out->count = 1;
    out->size = size;
}

void
sstpy_encoded_release(struct sstpy_encoded *encoded)
{
    if (encoded->view.obj != NULL) {
        PyBuffer_Release(&encoded->view);
    }
    Py_CLEAR(encoded->owner);
    sstpy_nest_release(encoded->nest);
    if (encoded->parcel != NULL) {
        encoded->parcel = sst_parcel_close(encoded->parcel);
    }
}

/* ---- Decoding ---- */

PyObject *
sstpy_copy_bytes(const void *data, uint64_t size)
{
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    if (size < SSTPY_DETACH_SIZE) {
        return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    }

    PyObject *const bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL) {
        return NULL;
    }

    sstpy_copy(PyBytes_AS_STRING(bytes), data, size);
    return bytes;
}

/* A large message takes itself along; a small one is copied, which is cheaper. */
static PyObject *
decode_pickle(struct sstpy_state *state, struct sst_message *message, bool again)
{
    PyObject *buffer = NULL;

    if (message->data == message->small) {
        buffer = PyBytes_FromStringAndSize((const char *)message->data + 1,
                                           (Py_ssize_t)message->size - 1);
    }
    else {
        PyObject *const holder =
            sstpy_message_take(state, message, 1, message->size - 1);
        if (holder != NULL) {
            buffer = PyMemoryView_FromObject(holder);
            Py_DECREF(holder);
        }
    }
    if (buffer == NULL) {
        return NULL;
    }

    PyObject *const obj = sstpy_unpickle_whole(state, buffer, NULL, again);
    Py_DECREF(buffer);
    return obj;
}

static PyObject *
decode_bad(const struct sst_message *message)
{
    if (message->size == 0) {
        PyErr_SetString(PyExc_ValueError, "the message is empty, not an object");
    }
    else {
        PyErr_Format(PyExc_ValueError,
                     "the message is not an object of this version of sidestep: %llu "
                     "bytes, the first is 0x%02x",
                     (unsigned long long)message->size,
                     *(const unsigned char *)message->data);
    }
    return NULL;
}

static PyObject *
decode_fixed(const struct sst_message *message, enum tag tag)
{
    const char *const payload = (const char *)message->data + 1;

    if (message->size != 1 + sizeof(int64_t)) {
        return decode_bad(message);
    }
    if (tag == TAG_INT) {
        long long value = 0;
        memcpy(&value, payload, sizeof(value));
        return PyLong_FromLongLong(value);
    }

    double value = 0;
    memcpy(&value, payload, sizeof(value));
    return PyFloat_FromDouble(value);
}

static PyObject *
decode_any(struct sstpy_state *state, struct sst_message *message, bool again)
{
    const char *const data = message->data;
    const uint64_t size = message->size;

    if (size == 0 || size > PY_SSIZE_T_MAX) {
        return decode_bad(message);
    }
    switch (data[0]) {
    case TAG_INT:
    case TAG_FLOAT:
        return decode_fixed(message, (enum tag)data[0]);
    case TAG_NONE:
        Py_RETURN_NONE;
    case TAG_TRUE:
        Py_RETURN_TRUE;
    case TAG_FALSE:
        Py_RETURN_FALSE;
    case TAG_STR:
        return PyUnicode_DecodeUTF8(data + 1, (Py_ssize_t)size - 1, NULL);
    case TAG_BYTES:
        return sstpy_copy_bytes(data + 1, size - 1);
    case TAG_BUFFERS:
        return sstpy_buffers_decode(state, message, again);
    case TAG_NEST:
        return sstpy_nest_decode(state, data + 1, size - 1);
    case TAG_PICKLE:
    case TAG_RAW: /* the stdlib's recv() unpickles what send_bytes() sent */
        return decode_pickle(state, message, again);
    default:
        return decode_bad(message);
    }
}

static PyObject *
decode_and_free(struct sstpy_state *state, struct sst_message *message, bool again)
{
    PyObject *const obj = decode_any(state, message, again);

    if (message->data != NULL) {
        sst_message_free(message);
    }
    return obj;
}

PyObject *
sstpy_decode(struct sstpy_state *state, struct sst_message *message)
{
    return decode_and_free(state, message, false);
}

PyObject *
sstpy_decode_whole(struct sstpy_state *state, struct sst_message *message)
{
    return decode_and_free(state, message, true);
}

bool
sstpy_message_bytes(const struct sst_message *message, const void **data,
                    uint64_t *size)
{
    const char *const whole = message->data;

    if (message->size == 0 || (whole[0] != TAG_RAW && whole[0] != TAG_PICKLE)) {
        return false;
    }
    *data = whole + 1;
    *size = message->size - 1;
    return true;
}

PyObject *
sstpy_decode_bytes(struct sstpy_state *state, struct sst_message *message,
                   int64_t size_max)
{
    const void *data = NULL;
    uint64_t size = 0;
    PyObject *bytes = NULL;

    if (sstpy_message_bytes(message, &data, &size)) {
        if (size_max < 0 || size <= (uint64_t)size_max) {
            bytes = sstpy_copy_bytes(data, size);
        }
        sst_message_free(message);
        return bytes;
    }

    /* An object sent, bytes wanted: those the stdlib would have sent. */
    PyObject *const obj = sstpy_decode(state, message);
    if (obj == NULL) {
        return NULL;
    }

    PyObject *const pickled = sstpy_pickle(state, obj, NULL);
    Py_DECREF(obj);
    if (pickled == NULL) {
        return NULL;
    }
    bytes = PyBytes_FromObject(pickled);
    Py_DECREF(pickled);
    if (bytes != NULL && size_max >= 0 && PyBytes_GET_SIZE(bytes) > size_max) {
        Py_CLEAR(bytes);
    }
    return bytes;
}
