// What the kernel itself needs, and clocks inside of processes, for benches/run.
//
//   kernel floor ROOT N    N times: clone into new namespaces, overlay of ROOT/lower,
//                          pivot_root, /proc, execve, reaped. Prints microseconds.
//   kernel fork N          N times: fork, execve, reaped. Prints microseconds.
//   kernel stamp [sleep]   Prints "stamp FIRST LAST": CLOCK_BOOTTIME in microseconds at
//                          its first and at its last instruction, as far as C goes.
//   kernel api SOCKET NAME N   N times: start a container over the API, wait for its
//                          end. Prints microseconds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    _exit(1);
}

static char *const arguments[] = {"kernel", "true", NULL};

static void contained(const char *root) {
    char options[4096];
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("private");
    snprintf(options, sizeof options, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", root, root, root);
    if (mount("overlay", root, "overlay", 0, options)) die("overlay");
    if (chdir(root)) die("chdir");
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot_root");
    if (umount2(".", MNT_DETACH)) die("umount");
    if (mount("proc", "/proc", "proc", 0, NULL)) die("proc");
    execv("/true", arguments);
    die("execve");
}

static void run(const char *root) {
    struct clone_args how = {.exit_signal = SIGCHLD};
    if (root) how.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
    long begun = now();
    long pid = syscall(SYS_clone3, &how, sizeof how);
    if (pid < 0) die("clone3");
    if (pid == 0) {
        if (root) contained(root);
        execv("/proc/self/exe", arguments);
        die("execve");
    }
    int status;
    if (waitpid(pid, &status, 0) < 0 || status) exit(1);
    printf("%ld\n", now() - begun);
}

static void ask(const char *path, const char *text) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer[4096];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (connect(fd, (void *)&address, sizeof address)) die("connect");
    if (write(fd, text, strlen(text)) < 0) die("write");
    while (read(fd, answer, sizeof answer) > 0) {}
    close(fd);
}

int main(int count, char **argument) {
    long first = now();
    if (count < 2) return 2;
    if (!strcmp(argument[1], "true")) return 0;
    if (!strcmp(argument[1], "stamp")) {
        printf("stamp %ld %ld\n", first, now());
        fflush(stdout);
        if (count > 2) pause();
        return 0;
    }
    if (!strcmp(argument[1], "fork") && count == 3)
        for (int i = atoi(argument[2]); i > 0; i--) run(NULL);
    else if (!strcmp(argument[1], "floor") && count == 4)
        for (int i = atoi(argument[3]); i > 0; i--) run(argument[2]);
    else if (!strcmp(argument[1], "api") && count == 5)
        for (int i = atoi(argument[4]); i > 0; i--) {
            char start[512], wait[512];
            const char *form = "POST /containers/%s/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            snprintf(start, sizeof start, form, argument[3], "start");
            snprintf(wait, sizeof wait, form, argument[3], "wait");
            long begun = now();
            ask(argument[2], start);
            ask(argument[2], wait);
            printf("%ld\n", now() - begun);
        }
    else
        return 2;
    return 0;
}
