/* Two threads for the time in which Jittor holds Python's lock, as it does while it computes and compiles:
   nothing of Python runs then.

   `watch` ends the process with exit code 130 when Ctrl-C is not answered in time. Python writes the number of
   each signal to a pipe as it arrives (signal.set_wakeup_fd), without the lock; a handler writes a zero when it
   runs. The thread reads the other end. While a step of a training is computed (`let_first_pass`), the thread
   itself answers the first Ctrl-C with a line, and only a second one must be answered.

   `tell` says that Jittor compiles, or waits for another process that does. Both hold the file jittor.lock
   meanwhile, and Linux lists in /proc/locks who holds a lock ("1: POSIX ADVISORY WRITE <process> <device>:<inode>
   0 EOF") and, below it, who waits for it ("1: -> POSIX ..."). Elsewhere the thread says nothing. */

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STEPS 4 /* looks at the lock before something is said */

static int milliseconds, code, step;

#define ONE_PRESS 250 /* milliseconds: a process that was forked reports the same Ctrl-C once more */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char line[200]; /* that answers the first Ctrl-C, between line feeds; or nothing */
static int passes, passed;
static double passed_at;

static void put(const char *text) {
    if (write(2, text, strlen(text)) < 0)
        return; /* nobody reads it */
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* text: the line that answers the first Ctrl-C from here on; 0: each Ctrl-C must be answered by Python. */
void let_first_pass(const char *text) {
    pthread_mutex_lock(&lock);
    passed = passed && passes;
    passes = text != 0;
    line[0] = 0;
    if (text && *text)
        snprintf(line, sizeof line, "\n%s\n", text);
    pthread_mutex_unlock(&lock);
}

/* Whether this Ctrl-C is the first one of a training, which goes on to the end of its step. */
static int passes_now(void) {
    pthread_mutex_lock(&lock);
    int first = passes && !passed, same = passes && passed && now() - passed_at < ONE_PRESS;
    if (first) {
        passed = 1;
        passed_at = now();
        put(line);
    }
    pthread_mutex_unlock(&lock);
    return first || same;
}

static void *watch(void *end) {
    int descriptor = (int)(intptr_t)end;
    char byte;
    while (read(descriptor, &byte, 1) == 1) {
        struct pollfd next = {descriptor, POLLIN, 0};
        if (byte == SIGINT && !passes_now() && poll(&next, 1, milliseconds) == 0)
            _exit(code);
    }
    return 0;
}

enum { NOTHING, COMPILING, WAITING };

/* What this process does with the lock of this inode, and in `holder` who holds it. */
static int state_of_lock(unsigned long wanted, int *holder) {
    char row[256], kind[16];
    FILE *file = fopen("/proc/locks", "r");
    int state = NOTHING;
    while (file && state == NOTHING && fgets(row, sizeof row, file)) {
        char *arrow = strstr(row, "-> "), *start = arrow ? arrow + 3 : row;
        unsigned long inode;
        int process;
        if (!arrow)
            start += strcspn(row, " ");
        if (sscanf(start, "%15s %*s %*s %d %*x:%*x:%lu", kind, &process, &inode) != 3 || inode != wanted)
            continue;
        if (!arrow)
            *holder = process;
        if (process == getpid() && arrow)
            state = WAITING;
        if (process == getpid() && !arrow && strcmp(kind, "POSIX") == 0) /* FLOCK: Jittor is imported */
            state = COMPILING;
    }
    if (file)
        fclose(file);
    return state;
}

static void say(const char *text) {
    char shown[512];
    /* a progress bar may stand in the line */
    snprintf(shown, sizeof shown, "%sjfusion: %s\n", isatty(2) ? "\r\033[K" : "\n", text);
    put(shown);
}

static void *tell(void *inode) {
    int last = NOTHING, times = 0, said = 0, named = 0, holder = 0;
    char text[400];
    for (;; poll(0, 0, step)) {
        int state = state_of_lock((unsigned long)(uintptr_t)inode, &holder);
        times = state == last ? times + 1 : 0;
        last = state;
        if (times < STEPS)
            continue;
        if (state == COMPILING && !said) {
            say("Jittor compiles the kernels of this network, once on this machine");
            said = 1;
        }
        if (state == WAITING && holder != named) {
            snprintf(text, sizeof text, "process %d starts Jittor or compiles; waiting for it", holder);
            say(text);
            named = holder;
        }
    }
    return 0;
}

static int start(void *(*work)(void *), uintptr_t argument) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all); /* signals stay those of Python's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, 0, work, (void *)argument);
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return failed;
}

int start_watch(int descriptor, int patience, int exit_code) {
    milliseconds = patience;
    code = exit_code;
    return start(watch, descriptor);
}

/* silence: milliseconds after which something is said */
int start_tell(unsigned long inode, int silence) {
    step = silence / STEPS;
    return start(tell, inode);
}
