/* SPDX-License-Identifier: MIT */

/* Block: a range of shared bytes with the buffer protocol.
 *
 * `exports` counts the views that Python code holds; close() refuses while there are
 * any, and the deallocator never meets one, because a view keeps the object alive.
 * Guarded by the GIL. */

#include "block.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"

static int
block_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    BlockObject *const self = (BlockObject *)obj;

    if (sstpy_block_check(self) < 0) {
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, obj, sst_block_data(self->block),
                          (Py_ssize_t)sst_block_size(self->block), 0, flags) < 0) {
        return -1;
    }
    self->exports++;
    return 0;
}

static void
block_releasebuffer(PyObject *obj, Py_buffer *Py_UNUSED(view))
{
    ((BlockObject *)obj)->exports--;
}

int
sstpy_block_check(const BlockObject *self)
{
    if (self->block == NULL) {
        PyErr_SetString(PyExc_ValueError, "the block is closed or was never made");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(block_close_doc,
             "close($self, /)\n--\n\n"
             "Give the block back. BufferError while views of it exist.");

static PyObject *
block_close(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    BlockObject *const self = (BlockObject *)obj;

    if (self->exports > 0) {
        PyErr_SetString(PyExc_BufferError, "cannot close exported pointers exist");
        return NULL;
    }
    self->block = sst_block_close(self->block);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(block_statistics_doc,
             "statistics($self, /)\n--\n\n"
             "size in bytes, exports: views of it in this process.");

static PyObject *
block_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const BlockObject *const self = (BlockObject *)obj;

    if (sstpy_block_check(self) < 0) {
        return NULL;
    }
    return Py_BuildValue("{s:K,s:n}", "size",
                         (unsigned long long)sst_block_size(self->block), "exports",
                         self->exports);
}

static int
block_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"size"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("Block", 1, names);
    BlockObject *const self = (BlockObject *)obj;
    PyObject *given[1];
    struct sst_error err = {0};
    Py_ssize_t size = 0;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_ssize(given[0], 0, &size) < 0) {
        return -1;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "size is negative");
        return -1;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->block);
    if (arena == NULL) {
        return -1;
    }

    const int rc = sst_block_create(arena, (uint64_t)size, &self->block, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

PyDoc_STRVAR(block_attach_doc, "_attach($self, handle, /)\n--\n\n"
                               "Be the block that a handle names; for objects made by "
                               "__new__ alone.");

static PyObject *
block_attach(PyObject *obj, PyObject *arg)
{
    BlockObject *const self = (BlockObject *)obj;
    struct sst_error err = {0};
    struct sst_handle handle;

    if (sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    struct sst_arena *const arena = sstpy_begin(self->state, self->block);
    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_block_attach(arena, &handle, &self->block, &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(block_from_handle_doc, "from_handle($type, handle, /)\n--\n\n"
                                    "The same block in another process.");

static void
block_dealloc(PyObject *obj)
{
    BlockObject *const self = (BlockObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->block = sst_block_close(self->block);
    sstpy_free(obj);
}

static PyObject *
block_get_handle(PyObject *obj, void *Py_UNUSED(closure))
{
    const BlockObject *const self = (BlockObject *)obj;
    struct sst_handle handle;

    if (sstpy_block_check(self) < 0) {
        return NULL;
    }
    sst_block_handle(self->block, &handle);
    return sstpy_handle_new(&handle);
}

static PyObject *
block_get_size(PyObject *obj, void *Py_UNUSED(closure))
{
    const BlockObject *const self = (BlockObject *)obj;

    if (sstpy_block_check(self) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(sst_block_size(self->block));
}

#define BLOCK_FASTCALL(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef block_methods[] = {
    {"close", block_close, METH_NOARGS, block_close_doc},
    {"statistics", block_statistics, METH_NOARGS, block_statistics_doc},
    {"_attach", block_attach, METH_O, block_attach_doc},
    {"from_handle", sstpy_from_handle, METH_O | METH_CLASS, block_from_handle_doc},
    {"load", BLOCK_FASTCALL(sstpy_block_load), METH_FASTCALL | METH_KEYWORDS,
     sstpy_block_load_doc},
    {"store", BLOCK_FASTCALL(sstpy_block_store), METH_FASTCALL | METH_KEYWORDS,
     sstpy_block_store_doc},
    {"fetch_add", BLOCK_FASTCALL(sstpy_block_fetch_add), METH_FASTCALL | METH_KEYWORDS,
     sstpy_block_fetch_add_doc},
    {"exchange", BLOCK_FASTCALL(sstpy_block_exchange), METH_FASTCALL | METH_KEYWORDS,
     sstpy_block_exchange_doc},
    {"compare_exchange", BLOCK_FASTCALL(sstpy_block_compare_exchange),
     METH_FASTCALL | METH_KEYWORDS, sstpy_block_compare_exchange_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef block_getset[] = {
    {"handle", block_get_handle, NULL, "Names it in other processes: bytes.", NULL},
    {"size", block_get_size, NULL, "In bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(block_doc,
             "Block(size)\n--\n\n"
             "A range of shared bytes, zeroed. memoryview(block) shows them.");

static PyType_Slot block_slots[] = {
    {Py_tp_doc, (void *)block_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, block_init},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, block_methods},
    {Py_tp_getset, block_getset},
    {Py_bf_getbuffer, block_getbuffer},
    {Py_bf_releasebuffer, block_releasebuffer},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "sidestep._core.Block",
    .basicsize = sizeof(BlockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = block_slots,
};

int
sstpy_block_exec(PyObject *module, struct sstpy_state *state)
{
    return sstpy_type_add(module, &block_spec, &state->block_type);
}
