/* DPDK's ring in memory of our own, for one producer and one consumer, or for many.
 *
 * The size of an element is a constant wherever the ring's inline functions see it, as they ask
 * for. Messages are written and read in the ring, by its zero-copy calls, if it is for one
 * producer and one consumer; it has no such calls for many, unless they wait for each other. */
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek_zc.h>

long peer_dpdk_size(unsigned words, unsigned slots) {
    return rte_ring_get_memsize_elem(words * 8, slots);
}

int peer_dpdk_init(void *memory, unsigned slots, int many) {
    return rte_ring_init(memory, "bench", slots, many ? 0 : RING_F_SP_ENQ | RING_F_SC_DEQ);
}

/* As the callers have it, and as many words as a batch of the longest messages has here. */
#define BATCH 32
#define MANY_WORDS 8

static __rte_always_inline void fill(uint64_t *at, unsigned count, unsigned words, uint64_t number) {
    for (unsigned message = 0; message < count; message++, number++)
        for (unsigned word = 0; word < words; word++)
            *at++ = number;
}

static __rte_always_inline uint64_t sum(const uint64_t *at, unsigned long words) {
    uint64_t sum = 0;
    for (unsigned long word = 0; word < words; word++)
        sum += at[word];
    return sum;
}

static __rte_always_inline unsigned send_words(struct rte_ring *ring, unsigned words,
                                               uint64_t first, unsigned count) {
    if (!rte_ring_is_prod_single(ring)) {
        uint64_t copies[BATCH * MANY_WORDS];
        if (words > MANY_WORDS)
            return 0;
        fill(copies, count, words, first);
        return rte_ring_mp_enqueue_burst_elem(ring, copies, words * 8, count, NULL);
    }
    struct rte_ring_zc_data place;
    unsigned now = rte_ring_enqueue_zc_burst_elem_start(ring, words * 8, count, &place, NULL);
    if (now == 0)
        return 0;
    unsigned front = place.n1 < now ? place.n1 : now;
    fill(place.ptr1, front, words, first);
    if (front < now)
        fill(place.ptr2, now - front, words, first + front);
    rte_ring_enqueue_zc_elem_finish(ring, now);
    return now;
}

static __rte_always_inline unsigned receive_words(struct rte_ring *ring, unsigned words,
                                                  unsigned count, uint64_t *total) {
    if (!rte_ring_is_cons_single(ring)) {
        uint64_t copies[BATCH * MANY_WORDS];
        if (words > MANY_WORDS)
            return 0;
        unsigned came = rte_ring_mc_dequeue_burst_elem(ring, copies, words * 8, count, NULL);
        *total = sum(copies, (unsigned long)came * words);
        return came;
    }
    struct rte_ring_zc_data place;
    unsigned now = rte_ring_dequeue_zc_burst_elem_start(ring, words * 8, count, &place, NULL);
    if (now == 0)
        return 0;
    unsigned front = place.n1 < now ? place.n1 : now;
    *total = sum(place.ptr1, (unsigned long)front * words);
    if (front < now)
        *total += sum(place.ptr2, (unsigned long)(now - front) * words);
    rte_ring_dequeue_zc_elem_finish(ring, now);
    return now;
}

/* Sends up to `count` messages of `words` words, numbered from `first` on: how
 * many, which is 0 for sizes that are not listed. */
unsigned peer_dpdk_send(void *ring, unsigned words, uint64_t first, unsigned count) {
    switch (words) {
    case 1:
        return send_words(ring, 1, first, count);
    case 8:
        return send_words(ring, 8, first, count);
    case 512:
        return send_words(ring, 512, first, count);
    default:
        return 0;
    }
}

/* Receives up to `count` messages: how many; the sum of their words in `total`. */
unsigned peer_dpdk_receive(void *ring, unsigned words, unsigned count, uint64_t *total) {
    switch (words) {
    case 1:
        return receive_words(ring, 1, count, total);
    case 8:
        return receive_words(ring, 8, count, total);
    case 512:
        return receive_words(ring, 512, count, total);
    default:
        return 0;
    }
}
