/* SPDX-License-Identifier: MIT */

/* ArrayView and BytesView: shared memory with the buffer protocol, read-only.
 *
 * Shape and format come from the share and are checked against each other before
 * anybody is given a buffer: memoryview trusts both. An array becomes what the
 * registered function makes of its view: numpy's own type where numpy is, else the
 * view. */

#include "share.h"

/* Bytes of one item of a format that memoryview reads items of by itself; 0 for the
 * others. */
static Py_ssize_t
native_size(const char *format)
{
    if (*format == '@') {
        format++;
    }
    if (format[0] == '\0' || format[1] != '\0') {
        return 0;
    }
    switch (format[0]) {
    case 'c':
    case 'b':
    case 'B':
    case '?':
        return 1;
    case 'h':
    case 'H':
    case 'e':
        return 2;
    case 'i':
    case 'I':
    case 'f':
        return 4;
    case 'l':
    case 'L':
        return (Py_ssize_t)sizeof(long);
    case 'q':
    case 'Q':
    case 'd':
        return 8;
    case 'n':
    case 'N':
    case 'P':
        return (Py_ssize_t)sizeof(void *);
    default:
        return 0;
    }
}

/* Shape times item size is the size, and the strides are what follows from it. */
static bool
fill_dims(ArrayView *self, const uint64_t *shape, uint64_t size)
{
    const int count = self->dim_count;
    Py_ssize_t *const dims = self->dims;
    uint64_t product = (uint64_t)self->item_size;
    bool is_empty = false;

    for (int i = 0; i < count; i++) {
        const int at = self->is_fortran ? i : count - 1 - i;
        const uint64_t length = share_load(&shape[at]);
        if (length > SHARE_LOW48 || product > SHARE_LOW48) {
            return false;
        }
        dims[at] = (Py_ssize_t)length;
        dims[count + at] = (Py_ssize_t)product;
        is_empty = is_empty || length == 0;
        product *= length == 0 ? 1 : length;
    }
    return (is_empty ? 0 : product) == size;
}

static int
fill_format(ArrayView *self, uint64_t word)
{
    ShareObject *const share = self->view.share;
    uint64_t offset = 0;

    /* looked at first: the format of a damaged array might be that array */
    if (!share_is(word, SHARE_TAG_BYTES) &&
        share_head_kind(sstpy_share_head(share, word, &offset)) != SHARE_KIND_BYTES) {
        sstpy_share_damaged();
        return -1;
    }

    PyObject *const format = sstpy_share_object(share, word);
    if (format == NULL) {
        return -1;
    }
    if (PyBytes_GET_SIZE(format) == 0) {
        Py_DECREF(format);
        sstpy_share_damaged();
        return -1;
    }

    const size_t size = (size_t)PyBytes_GET_SIZE(format) + 1;
    self->format = PyMem_Malloc(size);
    if (self->format != NULL) {
        memcpy(self->format, PyBytes_AS_STRING(format), size);
    }
    Py_DECREF(format);
    if (self->format == NULL) {
        PyErr_NoMemory();
        return -1;
    }

    const Py_ssize_t native = native_size(self->format);
    if (native != 0 && native != self->item_size) {
        sstpy_share_damaged();
        return -1;
    }
    return 0;
}

static ArrayView *
array_new(ShareObject *share, uint64_t word, enum sstpy_share_type which, int dim_count)
{
    PyTypeObject *const type = share->state->share_types[which];
    ArrayView *const self = (ArrayView *)type->tp_alloc(type, 0);

    if (self == NULL) {
        return NULL;
    }
    self->view.share = (ShareObject *)Py_NewRef(share);
    self->view.word = word;
    self->dim_count = dim_count;
    self->dims = PyMem_Calloc(2 * (size_t)dim_count + 1, sizeof(*self->dims));
    if (self->dims == NULL) {
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    return self;
}

static int
array_read(ArrayView *self, uint64_t offset, uint64_t head)
{
    const struct share_span *const span = &self->view.share->span;
    const uint64_t dims = (uint64_t)self->dim_count;
    const struct share_array *const record =
        share_at(span, offset + 8, sizeof(*record) + dims * 8);

    if (record == NULL) {
        sstpy_share_damaged();
        return -1;
    }

    const struct share_array copy = *record;
    self->data = share_at(span, copy.data, copy.size);
    self->size = (Py_ssize_t)copy.size;
    self->item_size = (Py_ssize_t)copy.item_size;
    self->is_fortran = (share_head_flags(head) & SHARE_FLAG_FORTRAN) != 0;
    self->meta = copy.meta;
    if (self->data == NULL || copy.item_size > SHARE_LOW48 ||
        !fill_dims(self, record->shape, copy.size)) {
        sstpy_share_damaged();
        return -1;
    }
    return fill_format(self, copy.format);
}

PyObject *
sstpy_share_array_view(ShareObject *share, uint64_t word, uint64_t offset,
                       uint64_t head)
{
    const uint64_t dims = share_head_count(head);

    if (dims > SHARE_DIMENSIONS_MAX) {
        return sstpy_share_damaged();
    }

    ArrayView *const self = array_new(share, word, SSTPY_SHARE_ARRAY, (int)dims);
    if (self == NULL || array_read(self, offset, head) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

PyObject *
sstpy_share_array(ShareObject *share, uint64_t word, uint64_t offset, uint64_t head)
{
    PyObject *const view = sstpy_share_array_view(share, word, offset, head);

    if (view == NULL || share->state->share_restore == NULL) {
        return view;
    }

    PyObject *const restore = Py_NewRef(share->state->share_restore);
    PyObject *const result = PyObject_CallOneArg(restore, view);
    Py_DECREF(restore);
    Py_DECREF(view);
    return result;
}

PyObject *
sstpy_share_bytes(ShareObject *share, uint64_t word, uint64_t offset, uint64_t head)
{
    struct share_text text;

    if (!share_text_read(&share->span, offset, head, &text)) {
        return sstpy_share_damaged();
    }

    ArrayView *const self = array_new(share, word, SSTPY_SHARE_BYTES, 1);
    if (self != NULL) {
        self->data = text.data;
        self->size = (Py_ssize_t)text.length;
        self->item_size = 1;
        self->dims[0] = self->size;
        self->dims[1] = 1;
    }
    return (PyObject *)self;
}

/* ---- The buffer ---- */

static int
array_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    ArrayView *const self = (ArrayView *)obj;
    const bool has_strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES;
    const bool wants_c = (flags & PyBUF_C_CONTIGUOUS) == PyBUF_C_CONTIGUOUS;
    const bool wants_f = (flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS;
    const bool is_line = self->dim_count < 2;

    view->obj = NULL;
    if ((flags & PyBUF_WRITABLE) != 0) {
        PyErr_SetString(PyExc_BufferError, "shared memory is read-only");
        return -1;
    }
    if (!is_line && ((self->is_fortran && (wants_c || !has_strides)) ||
                     (!self->is_fortran && wants_f))) {
        PyErr_SetString(PyExc_BufferError, "the array is not contiguous in that order");
        return -1;
    }

    const bool has_shape = (flags & PyBUF_ND) == PyBUF_ND;
    const bool has_format = (flags & PyBUF_FORMAT) == PyBUF_FORMAT;
    *view = (Py_buffer){
        .obj = Py_NewRef(obj),
        .buf = (void *)(uintptr_t)self->data,
        .len = self->size,
        .itemsize = self->item_size,
        .readonly = 1,
        .ndim = self->dim_count,
        .format = !has_format            ? NULL
                  : self->format == NULL ? (char *)(uintptr_t)"B"
                                         : self->format,
        .shape = has_shape ? self->dims : NULL,
        .strides = has_strides ? self->dims + self->dim_count : NULL,
    };
    return 0;
}

static void
array_dealloc(PyObject *obj)
{
    ArrayView *const self = (ArrayView *)obj;

    PyMem_Free(self->format);
    PyMem_Free(self->dims);
    sstpy_share_view_dealloc(obj);
}

static Py_ssize_t
bytes_length(PyObject *obj)
{
    return ((ArrayView *)obj)->size;
}

static PyObject *
array_meta(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ArrayView *const self = (ArrayView *)obj;

    return sstpy_share_copy(self->view.share, self->meta);
}

PyDoc_STRVAR(array_meta_doc, "_meta($self, /)\n--\n\n"
                             "What was registered with the array when it was shared.");

static PyMethodDef array_methods[] = {
    {"statistics", sstpy_share_view_statistics, METH_NOARGS,
     sstpy_share_statistics_doc},
    {"__copy__", sstpy_share_view_self, METH_NOARGS, NULL},
    {"__deepcopy__", sstpy_share_view_self, METH_O, NULL},
    {"_reference", sstpy_share_view_reference, METH_NOARGS, sstpy_share_reference_doc},
    {"_meta", array_meta, METH_NOARGS, array_meta_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef bytes_methods[] = {
    {"statistics", sstpy_share_view_statistics, METH_NOARGS,
     sstpy_share_statistics_doc},
    {"__copy__", sstpy_share_view_self, METH_NOARGS, NULL},
    {"__deepcopy__", sstpy_share_view_self, METH_O, NULL},
    {"_reference", sstpy_share_view_reference, METH_NOARGS, sstpy_share_reference_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(array_doc, "An array in shared memory: memoryview(view) shows it.");
PyDoc_STRVAR(bytes_doc, "Bytes in shared memory: memoryview(view) shows them.");

static PyType_Slot array_slots[] = {
    {Py_tp_doc, (void *)array_doc},
    {Py_tp_dealloc, array_dealloc},
    {Py_tp_methods, array_methods},
    {Py_bf_getbuffer, array_getbuffer},
    {0, NULL},
};

static PyType_Slot bytes_slots[] = {
    {Py_tp_doc, (void *)bytes_doc}, {Py_tp_dealloc, array_dealloc},
    {Py_tp_methods, bytes_methods}, {Py_bf_getbuffer, array_getbuffer},
    {Py_sq_length, bytes_length},   {0, NULL},
};

static PyType_Spec array_spec = {
    .name = "sidestep._core.ArrayView",
    .basicsize = sizeof(ArrayView),
    .flags = SSTPY_SHARE_VIEW_FLAGS,
    .slots = array_slots,
};

static PyType_Spec bytes_spec = {
    .name = "sidestep._core.BytesView",
    .basicsize = sizeof(ArrayView),
    .flags = SSTPY_SHARE_VIEW_FLAGS,
    .slots = bytes_slots,
};

int
sstpy_share_array_exec(PyObject *module, struct sstpy_state *state)
{
    if (sstpy_type_add(module, &array_spec, &state->share_types[SSTPY_SHARE_ARRAY]) <
        0) {
        return -1;
    }
    return sstpy_type_add(module, &bytes_spec, &state->share_types[SSTPY_SHARE_BYTES]);
}
