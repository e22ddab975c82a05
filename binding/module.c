/* SPDX-License-Identifier: MIT */

/* sidestep._core: the module, its state, and what its types have in common.
 *
 * The binding translates between Python objects and the core and decides nothing. Types
 * are heap types made from specs; the state is reached from a type through its module
 * and from an object through a pointer that the object keeps (its type keeps the module
 * alive).
 *
 * See docs/internals/binding.rst. */

#include "buffers.h"
#include "compat.h"
#include "nest.h"
#include "pickle.h"
#include "pool.h"
#include "process.h"
#include "state.h"

/* -Wmissing-prototypes wants one. */
PyMODINIT_FUNC PyInit__core(void);

struct sstpy_state *
sstpy_state_of(PyTypeObject *type)
{
    PyObject *const module = PyType_GetModuleByDef(type, &sstpy_module); /* borrowed */

    return module != NULL ? sstpy_module_state(module) : NULL;
}

PyObject *
sstpy_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct sstpy_state *const state = sstpy_state_of(type);

    if (state == NULL) {
        return NULL;
    }

    const allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct sstpy_object *const self = (struct sstpy_object *)alloc(type, 0);
    if (self != NULL) {
        self->state = state;
    }
    return (PyObject *)self;
}

struct sst_arena *
sstpy_begin(struct sstpy_state *state, const void *core)
{
    if (core != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the object is initialised already");
        return NULL;
    }
    return sstpy_arena(state);
}

void *
sstpy_raise_empty(PyObject *self)
{
    PyErr_Format(PyExc_ValueError, "%s.__init__() has not been called",
                 Py_TYPE(self)->tp_name);
    return NULL;
}

PyObject *
sstpy_from_handle(PyObject *cls, PyObject *handle)
{
    PyObject *const self = sstpy_new((PyTypeObject *)cls, NULL, NULL);

    if (self == NULL) {
        return NULL;
    }

    PyObject *const result =
        PyObject_CallMethodOneArg(self,
                                  ((struct sstpy_object *)self)->state->str_attach,
                                  handle);
    if (result == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(result);
    return self;
}

int
sstpy_type_add(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    PyObject *const type = PyType_FromModuleAndSpec(module, spec, NULL);

    if (type == NULL) {
        return -1;
    }
    *out = (PyTypeObject *)type;
    if (strrchr(spec->name, '.')[1] == '_') {
        return 0;
    }
    return PyModule_AddType(module, *out);
}

int
sstpy_traverse_type(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

void
sstpy_free(PyObject *self)
{
    PyTypeObject *const type = Py_TYPE(self);

    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- Exceptions and pickling, registered by the Python side ---- */

PyDoc_STRVAR(
    set_exceptions_doc,
    "set_exceptions($module, buffer_too_short, /)\n--\n\n"
    "The class that Connection.recv_bytes_into raises with the whole message as "
    "its argument when the buffer is too small. BufferError until told.");

static PyObject *
core_set_exceptions(PyObject *module, PyObject *buffer_too_short)
{
    struct sstpy_state *const state = sstpy_module_state(module);

    if (!PyExceptionClass_Check(buffer_too_short)) {
        PyErr_SetString(PyExc_TypeError, "an exception class is needed");
        return NULL;
    }
    Py_XSETREF(state->buffer_too_short, Py_NewRef(buffer_too_short));
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"set_exceptions", core_set_exceptions, METH_O, set_exceptions_doc},
    {NULL, NULL, 0, NULL},
};

/* An attribute of another module: a new reference, or NULL. */
static PyObject *
import_attribute(const char *module_name, const char *name)
{
    PyObject *const module = PyImport_ImportModule(module_name);

    if (module == NULL) {
        return NULL;
    }

    PyObject *const value = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return value;
}

/* queue.ShutDown where there is one (3.13), else a class of the same meaning. */
static PyObject *
make_shut_down(void)
{
    PyObject *const found = import_attribute("queue", "ShutDown");

    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return found;
    }
    PyErr_Clear();
    return PyErr_NewExceptionWithDoc("sidestep.ShutDown",
                                     "Raised when put or get is called on a queue that "
                                     "was shut down.",
                                     NULL, NULL);
}

static int
exec_exceptions(PyObject *module, struct sstpy_state *state)
{
    const struct {
        PyObject **slot;
        const char *module;
        const char *name;
    } others[] = {
        {&state->full, "queue", "Full"},
        {&state->empty, "queue", "Empty"},
        {&state->broken_barrier, "threading", "BrokenBarrierError"},
    };

    state->owner_died = PyErr_NewExceptionWithDoc(
        "sidestep.OwnerDied",
        "The process that held what was asked for died holding it.\n\n"
        "recover() makes the object usable again.",
        PyExc_RuntimeError, NULL);
    if (state->owner_died == NULL) {
        return -1;
    }
    /* An import may fail with anything, such as a Ctrl-C: then it was the last. */
    state->shut_down = make_shut_down();
    if (state->shut_down == NULL) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        *others[i].slot = import_attribute(others[i].module, others[i].name);
        if (*others[i].slot == NULL) {
            return -1;
        }
    }
    state->buffer_too_short = Py_NewRef(PyExc_BufferError);

    if (PyModule_AddObjectRef(module, "OwnerDied", state->owner_died) < 0 ||
        PyModule_AddObjectRef(module, "ShutDown", state->shut_down) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "BrokenBarrierError", state->broken_barrier);
}

static int
exec_names(struct sstpy_state *state)
{
    state->str_attach = PyUnicode_InternFromString("_attach");
    state->str_closed_error = PyUnicode_InternFromString("_closed_error");
    state->str_put_failed = PyUnicode_InternFromString("_put_failed");
    state->str_received = PyUnicode_InternFromString("received");
    state->str_count = PyUnicode_InternFromString("count");
    if (state->str_attach == NULL || state->str_closed_error == NULL ||
        state->str_put_failed == NULL || state->str_received == NULL ||
        state->str_count == NULL) {
        return -1;
    }
    return 0;
}

static int
module_exec(PyObject *module)
{
    static int (*const execs[])(PyObject *, struct sstpy_state *) = {
        exec_exceptions,         sstpy_arena_exec,       sstpy_buffers_exec,
        sstpy_buffers_open_exec, sstpy_semlock_exec,     sstpy_condition_exec,
        sstpy_event_exec,        sstpy_barrier_exec,     sstpy_queue_exec,
        sstpy_connection_exec,   sstpy_block_exec,       sstpy_process_exec,
        sstpy_pickle_exec,       sstpy_pool_result_exec, sstpy_pool_jobs_exec,
        sstpy_pool_engine_exec,  sstpy_pool_worker_exec, sstpy_share_exec,
        sstpy_named_exec,        sstpy_server_exec,
    };
    static PyMethodDef *const tables[] = {
        sstpy_arena_methods,      sstpy_pickle_methods,  sstpy_plain_methods,
        sstpy_connection_methods, sstpy_process_methods, sstpy_share_methods,
        sstpy_named_methods,
    };
    struct sstpy_state *const state = sstpy_module_state(module);

    if (exec_names(state) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(execs) / sizeof(*execs); i++) {
        if (execs[i](module, state) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    const struct sstpy_state *const state = sstpy_module_state(module);

    Py_VISIT(state->owner_died);
    Py_VISIT(state->shut_down);
    Py_VISIT(state->full);
    Py_VISIT(state->empty);
    Py_VISIT(state->broken_barrier);
    Py_VISIT(state->buffer_too_short);
    Py_VISIT(state->dumps);
    Py_VISIT(state->loads);
    Py_VISIT(state->semlock_type);
    Py_VISIT(state->condition_type);
    Py_VISIT(state->event_type);
    Py_VISIT(state->barrier_type);
    Py_VISIT(state->queue_type);
    Py_VISIT(state->connection_type);
    Py_VISIT(state->block_type);
    Py_VISIT(state->message_type);
    Py_VISIT(state->pool_result_type);
    Py_VISIT(state->pool_iterator_type);
    Py_VISIT(state->pool_jobs_type);
    Py_VISIT(state->pool_engine_type);
    Py_VISIT(state->pool_worker_type);
    Py_VISIT(state->pool_timeout);
    Py_VISIT(state->pool_pack);
    Py_VISIT(state->pickle_file_type);
    Py_VISIT(state->collector_type);
    Py_VISIT(state->parcel_type);
    Py_VISIT(state->view_type);
    Py_VISIT(state->named_type);
    Py_VISIT(state->server_type);
    return sstpy_share_traverse(state, visit, arg);
}

static int
module_clear(PyObject *module)
{
    struct sstpy_state *const state = sstpy_module_state(module);

    Py_CLEAR(state->owner_died);
    Py_CLEAR(state->shut_down);
    Py_CLEAR(state->full);
    Py_CLEAR(state->empty);
    Py_CLEAR(state->broken_barrier);
    Py_CLEAR(state->buffer_too_short);
    Py_CLEAR(state->dumps);
    Py_CLEAR(state->loads);
    Py_CLEAR(state->scratch);
    sstpy_nest_spare_free(&state->nest_spare);
    sstpy_nest_names_free(&state->nest_names);
    Py_CLEAR(state->semlock_type);
    Py_CLEAR(state->condition_type);
    Py_CLEAR(state->event_type);
    Py_CLEAR(state->barrier_type);
    Py_CLEAR(state->queue_type);
    Py_CLEAR(state->connection_type);
    Py_CLEAR(state->block_type);
    Py_CLEAR(state->message_type);
    Py_CLEAR(state->pool_result_type);
    Py_CLEAR(state->pool_iterator_type);
    Py_CLEAR(state->pool_jobs_type);
    Py_CLEAR(state->pool_engine_type);
    Py_CLEAR(state->pool_worker_type);
    Py_CLEAR(state->pool_timeout);
    Py_CLEAR(state->pool_pack);
    Py_CLEAR(state->pickle_file_type);
    Py_CLEAR(state->collector_type);
    Py_CLEAR(state->parcel_type);
    Py_CLEAR(state->view_type);
    Py_CLEAR(state->named_type);
    Py_CLEAR(state->server_type);
    Py_CLEAR(state->str_attach);
    Py_CLEAR(state->str_closed_error);
    Py_CLEAR(state->str_put_failed);
    Py_CLEAR(state->str_received);
    Py_CLEAR(state->str_count);
    sstpy_share_clear(state);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

PyDoc_STRVAR(module_doc,
             "The engine of sidestep, as Python sees it. Private: the names "
             "to use are in the package.");

struct PyModuleDef sstpy_module = {
    PyModuleDef_HEAD_INIT,         .m_name = "sidestep._core",
    .m_doc = module_doc,           .m_size = sizeof(struct sstpy_state),
    .m_methods = module_methods,   .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&sstpy_module);
}
