/* The time of day of whoever is started with this before it (LD_PRELOAD): as many seconds off as the
   file says that OWN_TIME names, eight bytes, at this very moment. Monotonic clocks are the kernel's.
   libfaketime 0.9.10 does the same, but breaks clock_nanosleep(2) there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_s;

__attribute__((constructor)) static void find_file(void) {
    const char *name = getenv("OWN_TIME");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) offset_s = found;
}

static int is_of_day(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
}

int clock_gettime(clockid_t clock, struct timespec *told) {
    int done = (int)syscall(SYS_clock_gettime, clock, told);
    if (!done && offset_s && is_of_day(clock)) told->tv_sec += *offset_s;
    return done;
}

int gettimeofday(struct timeval *told, void *zone) {
    int done = (int)syscall(SYS_gettimeofday, told, zone);
    if (!done && offset_s) told->tv_sec += *offset_s;
    return done;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}
