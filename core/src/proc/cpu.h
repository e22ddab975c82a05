/* SPDX-License-Identifier: MIT */
#ifndef SSTI_PROC_CPU_H
#define SSTI_PROC_CPU_H

#include <stdint.h>

/* CPUs that the control groups named in these two files (as in /proc/self) grant,
 * rounded up; 0 when they set no quota. */
int64_t ssti_cpu_quota(const char *cgroup_path, const char *mountinfo_path);

#endif
