/* The floor: the least that a server of WebSockets can do on this machine, for `make bench` to measure beside Parley.
 *
 * One thread, epoll, a read and a send where there is something to read or to send; no HTTP (any request is answered as
 * if it were a handshake), no limits, no promises. Frames up to 65,535 bytes. The first byte of a message says what is
 * done with it: B sends it to everybody at once, each message by a send of its own; G the same, but all that have come
 * together go out together; anything else is echoed.
 *
 *   cc -O2 -o floor floor.c && ./floor PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, CHUNK = 65536, EVENTS = 512, KEY = 4 };

struct peer {
    int open;            /* it has shaken hands */
    int place;           /* in `everybody` */
    size_t kept;         /* bytes of a frame that has not come whole */
    unsigned char *rest; /* these bytes */
};

static struct peer peers[MOST];
static int everybody[MOST], count;
static unsigned char in[2 * CHUNK], echoes[2 * CHUNK], gathered[2 * CHUNK];
static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: x\r\n\r\n";

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void put(int fd, const void *data, size_t size) {
    send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL); /* no peer is waited for: what does not fit is lost */
}

static void put_all(const void *data, size_t size) {
    for (int i = 0; i < count; i++) put(everybody[i], data, size);
}

static void leave(int fd) {
    struct peer *peer = &peers[fd];
    if (peer->open) {
        int last = everybody[--count];
        everybody[peer->place] = last;
        peers[last].place = peer->place;
    }
    free(peer->rest);
    memset(peer, 0, sizeof *peer);
    close(fd);
}

static void keep(struct peer *peer, const unsigned char *from, size_t size) {
    if (size && !peer->rest && !(peer->rest = malloc(CHUNK))) fail("malloc");
    memcpy(peer->rest ? peer->rest : in, from, size);
    peer->kept = size;
}

/* Write the frame of a payload, unmasked. Return its size. */
static size_t write_frame(unsigned char *to, unsigned char first, const unsigned char *masked, size_t length) {
    size_t head = 2;
    to[0] = first;
    if (length < 126) {
        to[1] = length;
    } else {
        to[1] = 126, to[2] = length >> 8, to[3] = length & 255;
        head = 4;
    }
    for (size_t i = 0; i < length; i++) to[head + i] = masked[KEY + i] ^ masked[i % KEY];
    return head + length;
}

static void serve(int fd) {
    struct peer *peer = &peers[fd];
    size_t kept = peer->kept, echoed = 0, together = 0, at = 0;
    if (kept) memcpy(in, peer->rest, kept);
    ssize_t got = recv(fd, in + kept, CHUNK - kept, 0);
    if (got <= 0) {
        leave(fd);
        return;
    }
    size_t have = kept + got;
    if (!peer->open) {
        unsigned char *end = memmem(in, have, "\r\n\r\n", 4);
        if (!end) {
            keep(peer, in, have);
            return;
        }
        put(fd, ANSWER, sizeof ANSWER - 1);
        peer->open = 1, peer->place = count;
        everybody[count++] = fd;
        at = end + 4 - in;
    }
    while (have - at >= 2) {
        size_t length = in[at + 1] & 127, head = 2;
        if (length == 126) {
            if (have - at < 4) break;
            length = in[at + 2] << 8 | in[at + 3], head = 4;
        }
        if (length == 127 || length + head + KEY > CHUNK) {
            leave(fd);
            return;
        }
        if (have - at < head + KEY + length) break;
        const unsigned char *masked = in + at + head;
        unsigned char kind = length ? masked[KEY] ^ masked[0] : 0;
        if (kind == 'G') {
            together += write_frame(gathered + together, in[at], masked, length);
        } else if (kind == 'B') {
            put_all(echoes + echoed, write_frame(echoes + echoed, in[at], masked, length));
        } else {
            echoed += write_frame(echoes + echoed, in[at], masked, length);
        }
        at += head + KEY + length;
    }
    keep(peer, in + at, have - at);
    if (together) put_all(gathered, together);
    if (echoed) put(fd, echoes, echoed);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: floor PORT\n"), 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) fail("bind");
    if (listen(listener, 4096)) fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                serve(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (fd >= MOST) {
                    close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* as the others */
                event.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
