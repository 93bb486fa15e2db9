/* Ends the process with exit code 130 when Ctrl-C is not answered in time.

   Jittor holds Python's lock while it computes and compiles, and then no handler of Python's runs. Python
   writes the number of each signal to a pipe as it arrives (signal.set_wakeup_fd), without the lock; a handler
   writes a zero when it runs. This thread reads the other end. */

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

static int milliseconds, code;

static void *watch(void *end) {
    int descriptor = (int)(intptr_t)end;
    char byte;
    while (read(descriptor, &byte, 1) == 1) {
        struct pollfd next = {descriptor, POLLIN, 0};
        if (byte == SIGINT && poll(&next, 1, milliseconds) == 0)
            _exit(code);
    }
    return 0;
}

int start_watch(int descriptor, int patience, int exit_code) {
    pthread_t thread;
    sigset_t all, before;
    milliseconds = patience;
    code = exit_code;
    sigfillset(&all); /* signals stay those of Python's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, 0, watch, (void *)(intptr_t)descriptor);
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return failed;
}
