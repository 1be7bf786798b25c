/* DPDK's ring in memory of our own, single producer and single consumer. */
#include <rte_ring.h>
#include <rte_ring_elem.h>

long peer_dpdk_size(unsigned bytes, unsigned slots) { return rte_ring_get_memsize_elem(bytes, slots); }

int peer_dpdk_init(void *memory, unsigned slots) {
    return rte_ring_init(memory, "bench", slots, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

unsigned peer_dpdk_enqueue(void *ring, const void *messages, unsigned bytes, unsigned count) {
    return rte_ring_sp_enqueue_burst_elem(ring, messages, bytes, count, NULL);
}

unsigned peer_dpdk_dequeue(void *ring, void *messages, unsigned bytes, unsigned count) {
    return rte_ring_sc_dequeue_burst_elem(ring, messages, bytes, count, NULL);
}
