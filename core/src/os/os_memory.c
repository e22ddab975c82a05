/* SPDX-License-Identifier: MIT */

/* Shared memory files and their mappings. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

#ifndef MFD_NOEXEC_SEAL
# define MFD_NOEXEC_SEAL 0x0008U
#endif

enum {
    SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
};

uint64_t
ssti_os_page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static int
create_file(void)
{
    const int fd =
        memfd_create("sidestep", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd >= 0 || errno != EINVAL) {
        return fd;
    }
    return memfd_create("sidestep", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* before 6.3 */
}

/* ftruncate beyond RLIMIT_FSIZE raises SIGXFSZ, which kills by default: held back and
 * taken off the thread's signals here. */
static int
set_size(int fd, uint64_t *size, uint64_t size_min)
{
    sigset_t too_large;
    sigset_t before;
    int rc;

    (void)sigemptyset(&too_large); /* these three cannot fail for valid arguments */
    (void)sigaddset(&too_large, SIGXFSZ);
    (void)pthread_sigmask(SIG_BLOCK, &too_large, &before);
    while ((rc = ftruncate(fd, (off_t)*size)) != 0 && errno == EFBIG &&
           *size / 2 >= size_min) {
        const struct timespec none = {0};

        (void)sigtimedwait(&too_large, NULL, &none); /* none pending: was ignored */
        *size /= 2;
    }
    if (rc != 0) {
        const struct timespec none = {0};

        rc = ssti_status_of_errno(errno);
        (void)sigtimedwait(&too_large, NULL, &none);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* Not in the place of a standard stream that happened to be closed. */
static int
above_streams(int fd)
{
    int copy;

    if (fd > STDERR_FILENO) {
        return fd;
    }
    copy = ssti_os_fd_duplicate(fd);
    ssti_os_close(fd);
    return copy;
}

int
ssti_os_memory_create(uint64_t *size, uint64_t size_min)
{
    const int fd = create_file();
    int rc;

    if (fd < 0) {
        return ssti_status_of_errno(errno);
    }
    rc = set_size(fd, size, size_min);
    if (rc == 0 && fcntl(fd, F_ADD_SEALS, SEALS) != 0) {
        rc = ssti_status_of_errno(errno);
    }
    if (rc != 0) {
        ssti_os_close(fd);
        return rc;
    }
    return above_streams(fd);
}

int
ssti_os_memory_inspect(int fd, uint64_t *size)
{
    struct stat status;
    int seals;

    if (fstat(fd, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || status.st_size < 0) {
        return SST_ECORRUPT;
    }
    *size = (uint64_t)status.st_size;
    return 0;
}

int
ssti_os_memory_map(int fd, uint64_t offset, uint64_t size, void **out)
{
    void *const address =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

    if (address == MAP_FAILED) {
        return errno == ENOMEM ? SST_ENOMEM : ssti_status_of_errno(errno);
    }
    (void)madvise(address, size,
                  MADV_DONTDUMP); /* only a larger core dump if refused */
    *out = address;
    return 0;
}

/* mremap of no bytes makes a second mapping of shared pages, which may go on to the end
 * of the file; what lies before the offset is given back. */
int
ssti_os_memory_map_again(const void *start, uint64_t offset, uint64_t size, void **out)
{
    char *const address =
        mremap((void *)(uintptr_t)start, 0, offset + size, MREMAP_MAYMOVE);

    if ((void *)address == MAP_FAILED) {
        return errno == ENOMEM ? SST_ENOMEM : ssti_status_of_errno(errno);
    }
    if (offset != 0) {
        ssti_os_memory_unmap(address, offset);
    }
    (void)madvise(address + offset, size, MADV_DONTDUMP); /* as above */
    *out = address + offset;
    return 0;
}

void
ssti_os_memory_unmap(void *address, uint64_t size)
{
    (void)munmap(address, size); /* a range of our own mapping: cannot fail */
}

int
ssti_os_memory_punch(int fd, uint64_t offset, uint64_t size)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)size) != 0) {
        return ssti_status_of_errno(errno);
    }
    return 0;
}

uint64_t
ssti_os_address_space_max(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return UINT64_MAX;
    }
    return limit.rlim_cur;
}

int
ssti_os_fd_duplicate(int fd)
{
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

    return copy >= 0 ? copy : ssti_status_of_errno(errno);
}

int
ssti_os_file_look(int fd, struct ssti_os_file *out)
{
    struct stat status;

    if (fstat(fd, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    out->device = status.st_dev;
    out->number = status.st_ino;
    return 0;
}

int
ssti_os_random(void *out, size_t size)
{
    return getrandom(out, size, 0) == (ssize_t)size ? 0 : SST_EIO;
}
