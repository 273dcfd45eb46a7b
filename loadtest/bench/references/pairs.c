/* Pairs of people who send each other direct messages: the client of `loadtest peers`, for any server that speaks text
 * over WebSockets. What it costs is taken from the servers it is compared on, so it does as little as can be done: one
 * epoll loop, frames that are made before they are needed, and answers that are recognised by their first bytes.
 *
 * It is run by loadtest/bench/pairs.py, which has opened the connections and hands them on. The standard input has a line
 * for each of these, with bytes in hex ("-": none) and times in nanoseconds:
 *
 *   separator BYTE                                  between the parts of a message; -1: it is one part
 *   sign MEANING FIRST WITHIN BEFORE                what a part means that begins with FIRST and has WITHIN in it; the
 *                                                   number of its message follows on BEFORE. The first that fits counts
 *   pair SENDER RECEIVER FRAME TEXT KEY SLOT...     file descriptors; a frame whose text begins at TEXT, a random UUID
 *                                                   at KEY (-1: none), and the number of the message at each SLOT
 *   begin                                           there are no more pairs
 *   saturate TIME PATIENCE                          each sender sends the next when it has its answer and its own copy
 *   paced PERIOD COUNT HOPELESS PATIENCE            one a PERIOD, in turn; no more when HOPELESS are late or under way
 *
 * The last two answer `done SENT TIME CPU UNDER_WAY LATE DELAYS`, then so many 64-bit delays; or `error WHY`, and end it.
 * Every message has to be answered once, and to come once to each of the two: less, more and others are errors.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

enum { CHUNK = 1 << 17, EVENTS = 64, SIGNS = 16, SLOTS = 4, DIGITS = 10, MASK = 4, PONG = 125 };
enum { ACKNOWLEDGED = 1, DELIVERED = 2, REFUSED = 4 };       /* meanings */
enum { ANSWERED = 1, OWN_COPY = 2, ARRIVED = 4, WHOLE = 7 }; /* what has come for a message */
static const uint64_t FIRST_NUMBER = 1000000000, SECOND = 1000000000, MILLISECOND = 1000000;

struct text {
    unsigned char *at;
    size_t size;
};

struct sign {
    int meaning;
    struct text first, within, before;
};

struct end { /* of a pair: a connection */
    int fd, is_sender;
    struct pair *pair;
    unsigned char *in; /* CHUNK bytes */
    size_t kept;       /* of a frame that has not come whole */
    struct text parts; /* of a message that came in several frames */
};

struct pair {
    struct end sender, receiver;
    struct text frame;
    long text, key, slots[SLOTS];
    int slot_count;
};

struct message { /* its place is its number */
    uint64_t due;
    uint32_t pair;
    uint8_t seen;
};

static struct sign signs[SIGNS];
static int sign_count, separator = -1, poll_fd;
static struct pair *pairs;
static size_t pair_count;
static struct message *messages;
static size_t sent, room;           /* messages, since the beginning */
static size_t whole, arrived;       /* messages that have everything, and that came to the other side */
static uint64_t *delays;            /* of this run */
static size_t delay_count, delay_room;
static uint64_t until, progress_at; /* until when the next message follows an answer; when something last came */

static void fail(const char *format, ...) {
    va_list arguments;
    printf("error ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    exit(1);
}

static uint64_t clock_of(clockid_t id) {
    struct timespec time;
    clock_gettime(id, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static uint64_t now(void) {
    return clock_of(CLOCK_MONOTONIC);
}

static void *grown(void *data, size_t *place, size_t wanted, size_t each) {
    if (wanted <= *place) return data;
    *place = wanted * 2;
    if (!(data = realloc(data, *place * each))) fail("there is no memory");
    return data;
}

/* -- what goes -------------------------------------------------------------------------------- */

static uint64_t random_bits(void) { /* splitmix64 */
    static uint64_t state;
    if (!state && getrandom(&state, sizeof state, 0) != sizeof state) fail("there are no random numbers");
    uint64_t bits = state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}

static void write_key(struct pair *pair) { /* over the digits of a UUID; its version and dashes stay */
    static const char KEY[] = "********-****-4***-8***-************";
    const unsigned char *mask = pair->frame.at + pair->text - MASK;
    uint64_t bits = 0;
    for (int i = 0, digits = 0; KEY[i]; i++) {
        if (KEY[i] != '*') continue;
        if (digits++ % 16 == 0) bits = random_bits();
        long at = pair->key + i;
        pair->frame.at[at] = "0123456789abcdef"[bits & 15] ^ mask[(at - pair->text) % MASK];
        bits >>= 4;
    }
}

static void write_number(struct pair *pair, uint64_t number) {
    const unsigned char *mask = pair->frame.at + pair->text - MASK;
    for (int digit = DIGITS - 1; digit >= 0; digit--, number /= 10)
        for (int slot = 0; slot < pair->slot_count; slot++) {
            long at = pair->slots[slot] + digit;
            pair->frame.at[at] = ('0' + number % 10) ^ mask[(at - pair->text) % MASK];
        }
}

static void put(struct end *end, const void *data, size_t size) {
    ssize_t taken = send(end->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (taken >= 0 ? (size_t)taken < size : errno == EAGAIN) fail("the server does not read what is sent");
    if (taken < 0) fail("the server closed a connection: %s", strerror(errno));
}

static void say(struct pair *pair, uint64_t due) {
    messages = grown(messages, &room, sent + 1, sizeof *messages);
    messages[sent] = (struct message){.due = due, .pair = pair - pairs};
    write_number(pair, FIRST_NUMBER + sent++);
    if (pair->key >= 0) write_key(pair);
    put(&pair->sender, pair->frame.at, pair->frame.size);
}

/* -- what comes ------------------------------------------------------------------------------- */

static void note_delay(uint64_t delay) {
    delays = grown(delays, &delay_room, delay_count + 1, sizeof *delays);
    delays[delay_count++] = delay;
}

static struct message *message_of(const struct end *end, const struct sign *sign, const unsigned char *at, size_t size) {
    const unsigned char *stop = at + size;
    uint64_t number = 0;
    at += sign->first.size;
    if (sign->before.size && (at = memmem(at, stop - at, sign->before.at, sign->before.size))) at += sign->before.size;
    while (at && at < stop && (*at < '0' || *at > '9')) at++;
    if (!at || stop - at < DIGITS) fail("an answer has no number of a message: %.*s", (int)size, stop - size);
    for (int digit = 0; digit < DIGITS; digit++) number = number * 10 + (*at++ - '0');
    if (number - FIRST_NUMBER >= sent || messages[number - FIRST_NUMBER].pair != end->pair - pairs)
        fail("something was answered or delivered that was not sent in that conversation: %" PRIu64, number);
    return &messages[number - FIRST_NUMBER];
}

static void has_come(struct message *message, int what, const char *name) {
    if (message->seen & what)
        fail("message %zu was %s twice", (size_t)(message - messages), name);
    message->seen |= what;
    whole += message->seen == WHOLE;
    progress_at = now();
}

static void take_part(struct end *end, const unsigned char *at, size_t size) {
    struct sign *sign = signs, *stop = signs + sign_count;
    while (sign < stop && !(size >= sign->first.size && !memcmp(at, sign->first.at, sign->first.size) &&
                            (!sign->within.size || memmem(at, size, sign->within.at, sign->within.size))))
        sign++;
    if (sign == stop || !sign->meaning) return;
    if (sign->meaning & REFUSED) fail("a message was refused: %.*s", (int)size, at);
    struct message *message = message_of(end, sign, at, size);
    if (!end->is_sender) {
        if (!(sign->meaning & DELIVERED)) return;
        has_come(message, ARRIVED, "delivered");
        arrived++;
        if (!until) note_delay(progress_at - message->due);
        return;
    }
    if (sign->meaning & ACKNOWLEDGED) has_come(message, ANSWERED, "answered");
    if (sign->meaning & DELIVERED) has_come(message, OWN_COPY, "delivered to its sender");
    if (until && (message->seen & (ANSWERED | OWN_COPY)) == (ANSWERED | OWN_COPY)) {
        note_delay(progress_at - message->due);
        if (progress_at < until) say(end->pair, progress_at); /* `messages` may have moved */
    }
}

static void take_text(struct end *end, const unsigned char *at, size_t size) {
    const unsigned char *stop = at + size;
    while (separator >= 0 && at < stop) {
        const unsigned char *next = memchr(at, separator, stop - at);
        if (!next) break;
        if (next > at) take_part(end, at, next - at);
        at = next + 1;
    }
    if (at < stop) take_part(end, at, stop - at);
}

static void take_frame(struct end *end, unsigned char first, const unsigned char *at, size_t size) {
    int code = first & 15, is_last = first & 128;
    struct text *parts = &end->parts;
    if (code == 8) fail("the server closed a connection");
    if (code == 9) {
        unsigned char pong[2 + MASK + PONG] = {138, 128 | size}; /* masked with zeros */
        memcpy(pong + 2 + MASK, at, size);
        put(end, pong, 2 + MASK + size);
    }
    if (code >= 8) return;
    if (is_last && !parts->size) {
        take_text(end, at, size);
        return;
    }
    if (!(parts->at = realloc(parts->at, parts->size + size + 1))) fail("there is no memory");
    memcpy(parts->at + parts->size, at, size);
    parts->size += size;
    if (is_last) {
        take_text(end, parts->at, parts->size);
        parts->size = 0;
    }
}

/* Take what is in the buffer; what is not whole is kept for later. */
static void take(struct end *end) {
    unsigned char *at = end->in, *stop = end->in + end->kept;
    while (stop - at >= 2) {
        size_t head = 2, size = at[1];
        if (size > 127 || ((at[0] & 8) && size > PONG)) fail("the server sent a frame that no server sends");
        if (size >= 126) {
            head = size == 126 ? 4 : 10;
            if ((size_t)(stop - at) < head) break;
            size = 0;
            for (size_t i = 2; i < head; i++) size = size << 8 | at[i];
            if (size > CHUNK - head) fail("the server sent a frame of %zu bytes", size);
        }
        if ((size_t)(stop - at) < head + size) break;
        take_frame(end, at[0], at + head, size);
        at += head + size;
    }
    end->kept = stop - at;
    memmove(end->in, at, end->kept);
}

static void receive(int milliseconds) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poll_fd, events, EVENTS, milliseconds);
    for (int i = 0; i < count; i++) {
        struct end *end = events[i].data.ptr;
        ssize_t size = recv(end->fd, end->in + end->kept, CHUNK - end->kept, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN) continue;
        if (size <= 0) fail("the server closed a connection");
        end->kept += size;
        take(end);
    }
}

/* Receive until then, to the microsecond. */
static void receive_until(uint64_t then) {
    for (uint64_t time; (time = now()) < then;) {
        struct pollfd one = {.fd = poll_fd, .events = POLLIN};
        struct timespec left = {(then - time) / SECOND, (then - time) % SECOND};
        if (ppoll(&one, 1, &left, NULL) > 0) receive(0);
    }
}

/* Until every message has come whole. */
static void receive_all(uint64_t patience) {
    progress_at = now();
    while (whole < sent) {
        receive(patience / MILLISECOND + 1);
        if (now() > progress_at + patience) {
            size_t answers = 0;
            for (size_t i = 0; i < sent; i++) answers += !(messages[i].seen & ANSWERED);
            fail("%zu messages were not answered, %zu not delivered within %g s", answers, sent - arrived,
                 (double)patience / SECOND);
        }
    }
}

/* -- runs ------------------------------------------------------------------------------------- */

static uint64_t begin, cpu_before;
static size_t sent_before;

static void start(void) {
    delay_count = 0, sent_before = sent;
    cpu_before = clock_of(CLOCK_PROCESS_CPUTIME_ID), begin = now();
}

static void report(size_t under_way, size_t late) {
    uint64_t time = now() - begin, cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_before;
    printf("done %zu %" PRIu64 " %" PRIu64 " %zu %zu %zu\n", sent - sent_before, time, cpu, under_way, late, delay_count);
    fwrite(delays, sizeof *delays, delay_count, stdout);
    fflush(stdout);
}

static void saturate(uint64_t time, uint64_t patience) {
    start();
    until = begin + time;
    for (size_t i = 0; i < pair_count; i++) say(&pairs[i], now());
    receive_all(patience);
    report(0, 0);
}

static void paced(uint64_t period, size_t count, size_t hopeless, uint64_t patience) {
    size_t late = 0;
    start();
    until = 0;
    for (size_t i = 0; i < count && late <= hopeless && sent - arrived <= hopeless; i++) {
        uint64_t due = begin + i * period;
        receive_until(due);
        say(&pairs[i % pair_count], due);
        late = (now() - due) / period;
        receive(0); /* a sender that is late reads nevertheless */
    }
    size_t under_way = sent - arrived;
    receive_all(patience);
    report(under_way, late);
}

/* -- the plan --------------------------------------------------------------------------------- */

static char *word(void) {
    char *found = strtok(NULL, " \n");
    if (!found) fail("a line of the plan is too short");
    return found;
}

static uint64_t number(void) {
    return strtoull(word(), NULL, 10); /* -1 is read as it is meant */
}

static struct text bytes(void) {
    char *hex = word();
    struct text text = {malloc(strlen(hex) / 2 + 1), strlen(hex) / 2};
    if (!text.at) fail("there is no memory");
    for (size_t i = 0; i < text.size; i++) sscanf(hex + 2 * i, "%2hhx", &text.at[i]);
    return text;
}

static void join(struct end *end, struct pair *pair, int fd) {
    end->fd = fd, end->pair = pair, end->is_sender = end == &pair->sender;
    if (!(end->in = malloc(CHUNK))) fail("there is no memory");
}

static void add_pair(void) {
    static size_t place;
    pairs = grown(pairs, &place, pair_count + 1, sizeof *pairs);
    struct pair *pair = &pairs[pair_count++];
    memset(pair, 0, sizeof *pair);
    pair->sender.fd = number(), pair->receiver.fd = number();
    pair->frame = bytes(), pair->text = number(), pair->key = number();
    for (char *slot; (slot = strtok(NULL, " \n")) && pair->slot_count < SLOTS;)
        pair->slots[pair->slot_count++] = strtol(slot, NULL, 10);
}

static void listen_to(struct end *end) {
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = end};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, end->fd, &wanted)) fail("a connection cannot be polled: %s", strerror(errno));
}

static void join_all(void) { /* now that pairs do not move any more */
    for (size_t i = 0; i < pair_count; i++) {
        join(&pairs[i].sender, &pairs[i], pairs[i].sender.fd);
        join(&pairs[i].receiver, &pairs[i], pairs[i].receiver.fd);
        listen_to(&pairs[i].sender);
        listen_to(&pairs[i].receiver);
    }
}

int main(void) {
    char *line = NULL;
    size_t size = 0;
    poll_fd = epoll_create1(0);
    prctl(PR_SET_TIMERSLACK, 1); /* a message leaves when it is due, not 50 us later */
    while (getline(&line, &size, stdin) > 0) {
        char *what = strtok(line, " \n");
        if (!what) continue;
        if (!strcmp(what, "separator")) {
            separator = number();
        } else if (!strcmp(what, "sign") && sign_count < SIGNS) {
            struct sign *sign = &signs[sign_count++];
            sign->meaning = number(), sign->first = bytes(), sign->within = bytes(), sign->before = bytes();
        } else if (!strcmp(what, "pair")) {
            add_pair();
        } else if (!strcmp(what, "begin")) {
            join_all();
        } else if (!strcmp(what, "saturate")) {
            uint64_t time = number();
            saturate(time, number());
        } else if (!strcmp(what, "paced")) {
            uint64_t period = number(), count = number(), hopeless = number();
            paced(period, count, hopeless, number());
        } else {
            fail("the plan has a line that is not known: %s", what);
        }
    }
    return 0;
}
