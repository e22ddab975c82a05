/* SPDX-License-Identifier: MIT */

/* NamedMemory: shared memory with a name and the buffer protocol.
 *
 * There is no close(): a view of the bytes keeps the object alive, and with the object
 * goes the mapping. So nobody is left with an address where nothing is any more. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_named *named; /* guarded by the GIL; never changes once set */
} NamedObject;

static struct sst_named *
named_of(PyObject *obj)
{
    NamedObject *const self = (NamedObject *)obj;

    return self->named != NULL ? self->named : sstpy_raise_empty(obj);
}

static int
named_getbuffer(PyObject *obj, Py_buffer *view, int flags)
{
    const struct sst_named *const named = named_of(obj);

    if (named == NULL) {
        view->obj = NULL;
        return -1;
    }
    return PyBuffer_FillInfo(view, obj, sst_named_data(named),
                             (Py_ssize_t)sst_named_size(named), 0, flags);
}

/* A name as the core wants it: NULL with an exception set. */
static const char *
name_from(PyObject *obj)
{
    Py_ssize_t size = 0;
    const char *name;

    if (!PyUnicode_Check(obj)) {
        PyErr_Format(PyExc_TypeError, "a name is a string, not %s",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    name = PyUnicode_AsUTF8AndSize(obj, &size);
    if (name != NULL && strlen(name) != (size_t)size) {
        PyErr_SetString(PyExc_ValueError, "embedded null character");
        return NULL;
    }
    return name;
}

/* As open() would say it, with the name. */
static void
raise_about_name(struct sstpy_state *state, int status, const struct sst_error *err,
                 PyObject *name)
{
    if (err->text[0] != '\0' || status <= -4096 || status == SST_ENOMEM) {
        sstpy_raise(state, status, err);
        return;
    }
    errno = -status;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, name);
}

static int
named_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"name", "size", "track", "mode"};
    static const struct sstpy_signature signature =
        SSTPY_SIGNATURE("NamedMemory", 1, names);
    NamedObject *const self = (NamedObject *)obj;
    struct sst_named_options options = {.size_of = sizeof(options)};
    struct sst_error err = {0};
    PyObject *given[4];
    Py_ssize_t size = 0;
    bool track = true;
    int mode = 0;
    const char *name;
    int rc;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_ssize(given[1], 0, &size) < 0 ||
        sstpy_to_bool(given[2], true, &track) < 0 ||
        sstpy_to_int(given[3], 0, &mode) < 0) {
        return -1;
    }
    name = name_from(given[0]);
    if (name == NULL) {
        return -1;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "size is negative");
        return -1;
    }
    options.size = (uint64_t)size;
    options.mode = (uint32_t)mode;
    options.untracked = !track;

    struct sst_arena *const arena = sstpy_begin(self->state, self->named);
    struct sst_named *named = NULL;

    if (arena == NULL) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = size > 0 ? sst_named_create(arena, name, &options, &named, &err)
                  : sst_named_attach(arena, name, &options, &named, &err);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        raise_about_name(self->state, rc, &err, given[0]);
        return -1;
    }
    self->named = named;
    return 0;
}

static void
named_dealloc(PyObject *obj)
{
    NamedObject *const self = (NamedObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->named = sst_named_close(self->named);
    sstpy_free(obj);
}

PyDoc_STRVAR(named_resize_doc,
             "resize($self, size=0, /)\n--\n\n"
             "Make it larger; 0: as large as somebody else has made it.");

static PyObject *
named_resize(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    struct sst_named *const named = named_of(obj);
    struct sst_error err = {0};
    Py_ssize_t size = 0;

    if (named == NULL) {
        return NULL;
    }
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "resize() takes at most 1 argument (%zd given)",
                     nargs);
        return NULL;
    }
    if (sstpy_to_ssize(nargs > 0 ? args[0] : NULL, 0, &size) < 0) {
        return NULL;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "size is negative");
        return NULL;
    }

    /* With the GIL: nobody else sees mapping and size of different times. */
    const int rc = sst_named_resize(named, (uint64_t)size, &err);

    if (rc < 0) {
        return sstpy_raise(((NamedObject *)obj)->state, rc, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(named_fileno_doc, "fileno($self, /)\n--\n\n"
                               "The descriptor; it belongs to the object.");

static PyObject *
named_fileno(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const struct sst_named *const named = named_of(obj);

    if (named == NULL) {
        return NULL;
    }

    const int fd = sst_named_fd(named);

    return fd >= 0 ? PyLong_FromLong(fd)
                   : sstpy_raise(((NamedObject *)obj)->state, fd, NULL);
}

static PyObject *
named_get_size(PyObject *obj, void *Py_UNUSED(closure))
{
    const struct sst_named *const named = named_of(obj);

    return named != NULL ? PyLong_FromUnsignedLongLong(sst_named_size(named)) : NULL;
}

static PyMethodDef named_methods[] = {
    {"resize", (PyCFunction)(void (*)(void))named_resize, METH_FASTCALL,
     named_resize_doc},
    {"fileno", named_fileno, METH_NOARGS, named_fileno_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef named_getset[] = {
    {"size", named_get_size, NULL, "In bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(named_doc,
             "NamedMemory(name, size=0, track=True, mode=0o600)\n--\n\n"
             "New shared memory of that name and size, or what has the name already if "
             "no size is given.\n\n"
             "memoryview(named) shows the bytes. Mapped until the object is gone.");

static PyType_Slot named_slots[] = {
    {Py_tp_doc, (void *)named_doc},
    {Py_tp_new, sstpy_new},
    {Py_tp_init, named_init},
    {Py_tp_dealloc, named_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, named_methods},
    {Py_tp_getset, named_getset},
    {Py_bf_getbuffer, named_getbuffer},
    {0, NULL},
};

static PyType_Spec named_spec = {
    .name = "sidestep._core.NamedMemory",
    .basicsize = sizeof(NamedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = named_slots,
};

/* ---- Names ---- */

/* The arena and the name of a call, false with an exception set. */
static bool
begin_call(PyObject *module, PyObject *arg, struct sst_arena **arena, const char **name)
{
    *name = name_from(arg);
    *arena = *name != NULL ? sstpy_arena(sstpy_module_state(module)) : NULL;
    return *arena != NULL;
}

static PyObject *
end_call(PyObject *module, int rc, PyObject *name)
{
    static const struct sst_error none = {0};

    if (rc < 0) {
        raise_about_name(sstpy_module_state(module), rc, &none, name);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(named_unlink_doc, "named_unlink($module, name, /)\n--\n\n"
                               "Remove a name; who has the memory mapped keeps it.");

static PyObject *
core_named_unlink(PyObject *module, PyObject *arg)
{
    struct sst_arena *arena;
    const char *name;

    if (!begin_call(module, arg, &arena, &name)) {
        return NULL;
    }
    return end_call(module, sst_named_unlink(arena, name), arg);
}

PyDoc_STRVAR(named_keep_doc,
             "named_keep($module, name, /)\n--\n\n"
             "See that a name that was made in another way goes with this tree of "
             "processes.");

static PyObject *
core_named_keep(PyObject *module, PyObject *arg)
{
    struct sst_arena *arena;
    const char *name;

    if (!begin_call(module, arg, &arena, &name)) {
        return NULL;
    }
    return end_call(module, sst_named_keep(arena, name), arg);
}

PyDoc_STRVAR(named_forget_doc,
             "named_forget($module, name, /)\n--\n\n"
             "What this process made or kept by that name does not go with its tree.");

static PyObject *
core_named_forget(PyObject *module, PyObject *arg)
{
    struct sst_arena *arena;
    const char *name;

    if (!begin_call(module, arg, &arena, &name)) {
        return NULL;
    }
    sst_named_forget(arena, name);
    Py_RETURN_NONE;
}

/* ---- Private folders ---- */

enum {
    PATH_SIZE = 4096,
};

PyDoc_STRVAR(
    folder_make_doc,
    "folder_make($module, parent, prefix, /)\n--\n\n"
    "A new folder in another, an absolute path, that only this user can enter; "
    "its path.\n\n"
    "It goes with this tree of processes, and all in it.");

static PyObject *
core_folder_make(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    static const struct sst_error none = {0};
    char path[PATH_SIZE];
    PyObject *parent = NULL;
    PyObject *made = NULL;
    struct sst_arena *arena;
    const char *prefix;
    int rc;

    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "folder_make() takes 2 arguments (%zd given)",
                     nargs);
        return NULL;
    }
    if (!begin_call(module, args[1], &arena, &prefix) ||
        !PyUnicode_FSConverter(args[0], &parent)) {
        return NULL;
    }
    rc = sst_folder_make(arena, PyBytes_AS_STRING(parent), prefix, path, sizeof path);
    Py_DECREF(parent);
    if (rc < 0) {
        raise_about_name(sstpy_module_state(module), rc, &none, args[0]);
    }
    else {
        made = PyUnicode_DecodeFSDefault(path);
    }
    return made;
}

PyDoc_STRVAR(folder_remove_doc,
             "folder_remove($module, path, /)\n--\n\n"
             "Remove a folder of this user's and all in it; links are not followed.");

static PyObject *
core_folder_remove(PyObject *module, PyObject *arg)
{
    struct sst_arena *const arena = sstpy_arena(sstpy_module_state(module));
    PyObject *path = NULL;
    int rc;

    if (arena == NULL || !PyUnicode_FSConverter(arg, &path)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = sst_folder_remove(arena, PyBytes_AS_STRING(path));
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return end_call(module, rc, arg);
}

PyMethodDef sstpy_named_methods[] = {
    {"named_unlink", core_named_unlink, METH_O, named_unlink_doc},
    {"named_keep", core_named_keep, METH_O, named_keep_doc},
    {"named_forget", core_named_forget, METH_O, named_forget_doc},
    {"folder_make", (PyCFunction)(void (*)(void))core_folder_make, METH_FASTCALL,
     folder_make_doc},
    {"folder_remove", core_folder_remove, METH_O, folder_remove_doc},
    {NULL, NULL, 0, NULL},
};

/* The interpreter is gone: nothing is used any more. */
static void
leave(void)
{
    struct sst_arena *const arena = sstpy_arena_peek();

    if (arena != NULL) {
        sst_named_leave(arena);
    }
}

int
sstpy_named_exec(PyObject *module, struct sstpy_state *state)
{
    static bool registered; /* once per process, guarded by the GIL */

    if (!registered) {
        if (Py_AtExit(leave) < 0) {
            PyErr_SetString(PyExc_RuntimeError, "too many functions to run at exit");
            return -1;
        }
        registered = true;
    }
    return sstpy_type_add(module, &named_spec, &state->named_type);
}
