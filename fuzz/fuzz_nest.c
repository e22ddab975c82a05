/* SPDX-License-Identifier: MIT */

/* A message that says it is a nest (binding/nest_decode.c). What it decodes to is
 * encoded and decoded again, and must not change. */

#include <string.h>

#include "compat.h"
#include "fuzz.h"
#include "nest.h"

static struct sstpy_state state; /* of which the codec needs its buffers and names */

/* The bytes of the nest of `obj` behind the tag, in memory of their own. */
static uint8_t *
encode(PyObject *obj, size_t *size)
{
    struct sst_slice slices[SST_SLICES_MAX];
    struct sstpy_nest nest = {.slices = slices};
    const int rc = sstpy_nest_encode(&state, obj, 'n', &nest);

    fuzz_expect(rc >= 0);
    if (rc == 0) {
        return NULL;
    }

    uint8_t *const bytes = malloc(nest.size);
    fuzz_expect(bytes != NULL);
    size_t used = 0;
    for (uint32_t i = 0; i < nest.count; i++) {
        memcpy(bytes + used, slices[i].data, slices[i].size);
        used += slices[i].size;
    }
    fuzz_expect(used == nest.size);
    sstpy_nest_release(nest.scratch);
    *size = used;
    return bytes;
}

/* It may hold itself to be more than a nest only where sizes have no bound (keys that
 * cost much to hash); then there is nothing to compare. */
static void
check_again(PyObject *obj)
{
    size_t size = 0;
    size_t size_again = 0;
    uint8_t *const bytes = encode(obj, &size);

    if (bytes == NULL) {
        return;
    }

    PyObject *const same = sstpy_nest_decode(&state, bytes + 1, size - 1);
    fuzz_expect(same != NULL && Py_TYPE(same) == Py_TYPE(obj));

    uint8_t *const again = encode(same, &size_again);
    fuzz_expect(again != NULL);
    Py_DECREF(same);
    free(again);
    free(bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!Py_IsInitialized()) {
        Py_InitializeEx(0);
    }

    PyObject *const obj = sstpy_nest_decode(&state, data, size);
    if (obj == NULL) {
        fuzz_expect(PyErr_ExceptionMatches(PyExc_ValueError));
        PyErr_Clear();
        return 0;
    }
    check_again(obj);
    Py_DECREF(obj);
    return 0;
}
