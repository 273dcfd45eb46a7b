/* A fixed piece of work in C: sorting, hashing and copying, some 2 MB of it. Prints the processor time it took, in
 * seconds, and a number that depends on all of the work, so that no compiler leaves any out.
 *
 *   cc -O2 -o speed speed.c && ./speed
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT = 1 << 18, TURNS = 4 };
static uint32_t numbers[COUNT], copy[COUNT];

static int compare(const void *a, const void *b) {
    uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return (one > other) - (one < other);
}

int main(void) {
    struct timespec spent;
    uint64_t state = 88172645463325252u, hash = 14695981039346656037u;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < COUNT; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            numbers[i] = (uint32_t)state;
        }
        memcpy(copy, numbers, sizeof numbers);
        qsort(copy, COUNT, sizeof *copy, compare);
        for (int i = 0; i < COUNT; i++) hash = (hash ^ numbers[copy[i] % COUNT]) * 1099511628211u;
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    printf("%.6f %016llx\n", spent.tv_sec + spent.tv_nsec / 1e9, (unsigned long long)hash);
}
