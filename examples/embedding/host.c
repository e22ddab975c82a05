/* SPDX-License-Identifier: MIT */

/* A program that has Python inside of it, with a module of its own, and uses processes.
 *
 * A child that is not forked is started as a Python interpreter that runs a line of
 * code. The interpreter is this very program, so that children have its module as well:
 * it tells sidestep so, and when it is started with such a line it does what python
 * does.
 *
 *     cc host.c $(python3-config --cflags --ldflags --embed) -o host && ./host */

#include <Python.h>
#include <stdlib.h>
#include <string.h>

/* ---- What the program lends to Python ---- */

static PyObject *
host_square(PyObject *module, PyObject *number)
{
    (void)module;
    return PyNumber_Multiply(number, number);
}

static PyMethodDef host_methods[] = {
    {"square", host_square, METH_O, "The square of a number."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef host_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "host",
    .m_methods = host_methods,
};

static PyObject *
init_host(void)
{
    return PyModule_Create(&host_module);
}

/* ---- What it does with it ---- */

static const char work[] = "import host, sidestep\n"
                           "sidestep.set_executable(program)\n"
                           "for method in ('spawn', 'forkserver'):\n"
                           "    with sidestep.get_context(method).Pool(2) as pool:\n"
                           "        print(method, pool.map(host.square, range(5)))\n";

static int
run_python(void)
{
    char *const path = realpath("/proc/self/exe", NULL);
    PyObject *const main_module = PyImport_AddModule("__main__"); /* borrowed */
    PyObject *const name = PyUnicode_DecodeFSDefault(path != NULL ? path : "");
    int failed = 1;

    if (main_module != NULL && name != NULL &&
        PyObject_SetAttrString(main_module, "program", name) == 0) {
        failed = PyRun_SimpleString(work);
    }
    Py_XDECREF(name);
    free(path);
    return failed;
}

/* Has sidestep started us? Such a command line is "program [options] -c code ...". */
static int
is_child(int argc, char **argv)
{
    int i = 1;

    while (i < argc && argv[i][0] == '-' && strcmp(argv[i], "-c") != 0) {
        i++;
    }
    return i < argc && strcmp(argv[i], "-c") == 0;
}

int
main(int argc, char **argv)
{
    int failed;

    if (PyImport_AppendInittab("host", init_host) != 0) {
        return 1;
    }
    if (is_child(argc, argv)) {
        return Py_BytesMain(argc, argv);
    }
    Py_Initialize();
    failed = run_python();
    return Py_FinalizeEx() < 0 || failed;
}
