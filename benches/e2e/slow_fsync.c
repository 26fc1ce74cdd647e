/* A disk whose every flush takes SLOW_FSYNC_MS milliseconds longer: loaded with LD_PRELOAD in front of the C library.
   At its end the process says on standard error how many flushes there were. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_ulong flushes;

static void wait_a_while(void) {
    const char *text = getenv("SLOW_FSYNC_MS");
    long ms = text ? atol(text) : 10;
    struct timespec rest = {ms / 1000, (ms % 1000) * 1000000L};
    atomic_fetch_add(&flushes, 1);
    nanosleep(&rest, NULL);
}

int fsync(int fd) {
    wait_a_while();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    wait_a_while();
    return (int)syscall(SYS_fdatasync, fd);
}

__attribute__((destructor)) static void tell(void) {
    fprintf(stderr, "flushes: %lu\n", atomic_load(&flushes));
}
