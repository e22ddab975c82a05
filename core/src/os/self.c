/* SPDX-License-Identifier: MIT */

#include "os/self.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "os/os.h"

_Thread_local struct ssti_self ssti_self_tls __attribute__((tls_model("initial-exec")));

/* Where a thread without a robust list points its pending slot. The kernel never looks
 * here, so deaths go unseen: ssti_os_kernel() then says so and sleeps come in
 * slices. */
static _Thread_local void *volatile nobody_looks;

static pthread_once_t atfork_once = PTHREAD_ONCE_INIT;

static struct robust_list_head *
robust_head(void)
{
    struct robust_list_head *head = NULL;
    size_t size = 0;

    if (syscall(SYS_get_robust_list, 0, &head, &size) != 0) {
        return NULL;
    }
    return head;
}

/* musl registers a thread's list only when the thread locks its first robust mutex that
 * may be shared. */
static void
lock_a_robust_mutex(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutex_t mutex;

    if (pthread_mutexattr_init(&attributes) != 0) {
        return;
    }
    if (pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
        pthread_mutex_init(&mutex, &attributes) == 0) {
        if (pthread_mutex_lock(&mutex) == 0) {
            (void)pthread_mutex_unlock(&mutex); /* ours: cannot fail */
        }
        (void)pthread_mutex_destroy(&mutex); /* unlocked: cannot fail */
    }
    (void)pthread_mutexattr_destroy(&attributes); /* initialised: cannot fail */
}

/* musl's fork leaves the parent's locks in the child's list, and a thread of the child
 * that ends would mark them all as its own. Only while the list is not registered
 * again, which is when nothing of the child's can be in it. */
static void
disown_inherited(struct ssti_self *self)
{
    struct robust_list_head *head;

    if (self->pending == NULL || self->pending == &nobody_looks) {
        return;
    }
    head =
        (struct robust_list_head *)((uintptr_t)self->pending -
                                    offsetof(struct robust_list_head, list_op_pending));
    head->list.next = &head->list;
}

void
ssti_self_refresh(void)
{
    struct ssti_self *const self = &ssti_self_tls;
    struct robust_list_head *head = robust_head();

    if (head == NULL) {
        disown_inherited(self);
        lock_a_robust_mutex();
        head = robust_head();
    }
    if (head == NULL) {
        ssti_os_kernel_is_blind();
        self->pending = &nobody_looks;
        self->futex_offset = 0;
    }
    else {
        self->pending = (void *volatile *)&head->list_op_pending;
        self->futex_offset = head->futex_offset;
    }
    self->just_woke = 0;
    self->was_woken = 0;
    self->tid = (uint32_t)syscall(SYS_gettid);
}

static void
refresh_in_child(void)
{
    if (ssti_self_tls.tid != 0) {
        ssti_self_refresh();
    }
}

static void
register_atfork(void)
{
    const int rc = pthread_atfork(NULL, NULL, refresh_in_child);

    /* Without it a child would sign locks with its parent's name. */
    sst_assert(rc == 0);
}

struct ssti_self *
ssti_self_init(void)
{
    (void)pthread_once(&atfork_once, register_atfork); /* fails for no valid once */
    ssti_self_refresh();
    return &ssti_self_tls;
}
