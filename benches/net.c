// Traffic for benches/network: one program for both ends.
//   serve PORT                    a connection that begins with T is drained, with L echoed;
//                                 what begins with anything else is answered "ok" and closed
//   throughput HOST PORT SECONDS  megabytes a second of one connection
//   latency HOST PORT COUNT       median microseconds of one byte there and back
//   connect HOST PORT COUNT       median microseconds to connect and be answered
//   hammer HOST PORT SECONDS      connections that were served, and that were refused
//   dns SERVER NAME COUNT         queries a second, one after the other
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *all, int count) {
    qsort(all, count, sizeof *all, compare);
    return count ? all[count / 2] : 0;
}

static int dial(const char *host, const char *port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    int is4 = inet_pton(AF_INET, host, &v4.sin_addr), one = 1;
    if (!is4 && !inet_pton(AF_INET6, host, &v6.sin6_addr)) return -1;
    int fd = socket(is4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (is4 ? connect(fd, (void *)&v4, sizeof v4) : connect(fd, (void *)&v6, sizeof v6)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void *client(void *arg) {
    int fd = (intptr_t)arg, one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    static __thread char bytes[1 << 17];
    ssize_t length = recv(fd, bytes, 1, 0);
    if (length == 1 && bytes[0] == 'T') while (recv(fd, bytes, sizeof bytes, 0) > 0) {}
    else if (length == 1 && bytes[0] == 'L')
        while ((length = recv(fd, bytes, 64, 0)) > 0) if (send(fd, bytes, length, MSG_NOSIGNAL) < 0) break;
    if (length == 1) send(fd, "ok", 2, MSG_NOSIGNAL);
    close(fd);
    return NULL;
}

// Descriptor 3 is the listening socket, if a supervisor gave one.
static int serve(const char *port) {
    int listener = 3;
    if (!getenv("LISTEN_FDS")) {
        struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
        int one = 1;
        listener = socket(AF_INET6, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1024)) { perror("bind"); return 1; }
    }
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd < 0) continue;
        if (pthread_create(&thread, NULL, client, (void *)(intptr_t)fd)) close(fd);
        else pthread_detach(thread);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(argv[2]);
    if (argc < 5) return 2;
    const char *host = argv[2], *port = argv[3];
    int count = atoi(argv[4]);
    if (!strcmp(argv[1], "throughput")) {
        static char bytes[1 << 17];
        int fd = dial(host, port);
        if (fd < 0) { puts("none"); return 1; }
        bytes[0] = 'T';
        double begun = now(), sent = 0;
        while (now() - begun < count) {
            ssize_t length = send(fd, bytes, sizeof bytes, MSG_NOSIGNAL);
            if (length <= 0) break;
            sent += length;
        }
        printf("%.0f\n", sent / 1e6 / (now() - begun));
    } else if (!strcmp(argv[1], "latency")) {
        double *all = calloc(count, sizeof *all);
        int fd = dial(host, port), done = 0;
        char byte = 'L';
        if (fd < 0 || send(fd, &byte, 1, 0) != 1) { puts("none"); return 1; }
        for (; done < count; done++) {
            double begun = now();
            if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1) break;
            all[done] = (now() - begun) * 1e6;
        }
        printf("%.1f\n", median(all, done));
    } else if (!strcmp(argv[1], "connect")) {
        double *all = calloc(count, sizeof *all);
        int done = 0;
        for (int at = 0; at < count; at++) {
            char answer[2];
            double begun = now();
            int fd = dial(host, port);
            if (fd < 0) continue;
            if (send(fd, "C", 1, MSG_NOSIGNAL) == 1 && recv(fd, answer, 2, MSG_WAITALL) == 2) all[done++] = (now() - begun) * 1e6;
            close(fd);
        }
        printf("%.1f\n", median(all, done));
    } else if (!strcmp(argv[1], "hammer")) {
        long served = 0, refused = 0, broken = 0;
        for (double begun = now(); now() - begun < count;) {
            char answer[2];
            int fd = dial(host, port);
            if (fd < 0) { refused++; usleep(1000); continue; }
            // One that was accepted by a server that is then killed is that server's loss.
            if (send(fd, "C", 1, MSG_NOSIGNAL) == 1 && recv(fd, answer, 2, MSG_WAITALL) == 2) served++; else broken++;
            close(fd);
        }
        printf("%ld served, %ld refused, %ld broken off by the killed server\n", served, refused, broken);
    } else if (!strcmp(argv[1], "dns")) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(53)};
        inet_pton(AF_INET, host, &at.sin_addr);
        unsigned char query[300] = {1, 2, 1, 0, 0, 1}, answer[600];
        size_t length = 12 + 1, name = strlen(port);
        query[12] = name;
        memcpy(query + 13, port, name);
        length += name + 1;
        memcpy(query + length, "\0\1\0\1", 4);
        length += 4;
        int fd = socket(AF_INET, SOCK_DGRAM, 0), done = 0;
        struct timeval patience = {.tv_sec = 2};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(fd, (void *)&at, sizeof at)) { puts("none"); return 1; }
        double begun = now();
        for (; done < count; done++)
            if (send(fd, query, length, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 12 || !answer[7]) break;
        printf("%.0f\n", done / (now() - begun));
    } else return 2;
    return 0;
}
