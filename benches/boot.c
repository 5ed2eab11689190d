// The parts of benches/boot that run inside the virtual machine, one static program by
// three names, so that every init starts the same:
//
//   stamp-INIT           writes the time since boot to /stamp, and becomes /bench/INIT
//   service NAME         writes the time since boot to /run/ready/NAME, and waits for ever
//   judge COUNT NAME...  waits until COUNT services were ready, says how long the last one
//                        took and what memory PID 1 and the processes of these names
//                        take, and switches the machine off
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void write_down(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%.6f\n", now());
    fclose(file);
}

static double read_from(const char *path) {
    double time = 0;
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%lf", &time) != 1) time = 0;
        fclose(file);
    }
    return time;
}

static int ready(double *last) {
    int count = 0;
    DIR *dir = opendir("/run/ready");
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char path[300];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/run/ready/%s", entry->d_name);
        double time = read_from(path);
        if (time > 0) count++;
        if (time > *last) *last = time;
    }
    if (dir) closedir(dir);
    return count;
}

// The private and shared memory of one process (proc_pid_smaps(5)), in KiB.
static long memory(const char *pid) {
    char path[300], line[200];
    long total = 0, value;
    snprintf(path, sizeof path, "/proc/%s/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %ld kB", &value) == 1) total = value;
    fclose(file);
    return total;
}

// The memory of all processes of a name, or of PID 1 without one.
static void tell_memory(FILE *out, const char *wanted) {
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    long all = 0;
    int processes = 0;
    while (dir && (entry = readdir(dir))) {
        char path[300], name[64] = "";
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        int is_first = !strcmp(entry->d_name, "1");
        if (is_first != !wanted) continue;
        if (wanted) {
            snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
            FILE *file = fopen(path, "r");
            if (!file) continue;
            if (fgets(name, sizeof name, file)) name[strcspn(name, "\n")] = 0;
            fclose(file);
            if (strcmp(name, wanted)) continue;
        }
        all += memory(entry->d_name);
        processes++;
    }
    if (dir) closedir(dir);
    if (processes) fprintf(out, "BENCH memory %s %ld %d\n", wanted ? wanted : "PID1", all, processes);
}

int main(int count, char **words) {
    // As init it is called `init`, whatever its file is.
    char file[300] = "";
    if (readlink("/proc/self/exe", file, sizeof file - 1) < 0) return 1;
    const char *name = strrchr(file, '/') + 1;
    if (!strncmp(name, "stamp-", 6)) {
        char path[300];
        write_down("/stamp");
        snprintf(path, sizeof path, "/bench/%s", name + 6);
        char *init[] = {"init", NULL};
        execv(path, init);
        return 127;
    }
    if (!strcmp(name, "service") && count > 1) {
        char path[300];
        mkdir("/run/ready", 0755);
        snprintf(path, sizeof path, "/run/ready/%s", words[1]);
        write_down(path);
        for (;;) pause();
    }
    if (!strcmp(name, "judge") && count > 2) {
        double last = 0, begun = now();
        int wanted = atoi(words[1]), got;
        while ((got = ready(&last)) < wanted && now() - begun < 300) usleep(100000);
        // What was begun meanwhile settles.
        sleep(3);
        FILE *out = fopen("/dev/console", "w");
        if (!out) return 1;
        fprintf(out, "\nBENCH ready %d %.2f\n", got, last - read_from("/stamp"));
        tell_memory(out, NULL);
        for (int i = 2; i < count; i++) tell_memory(out, words[i]);
        fflush(out);
        sync();
        reboot(RB_POWER_OFF);
    }
    return 1;
}
