// Boost.Lockfree's queue of fixed size, in shared memory.
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <boost/lockfree/queue.hpp>

using namespace boost::interprocess;

template <unsigned words> struct Message {
    uint64_t word[words];
};

// Of fixed size: nodes are numbered, so that it may lie at any address.
template <unsigned words>
using Queue = boost::lockfree::queue<Message<words>, boost::lockfree::capacity<4096>>;

template <unsigned words> static int push(void *at, uint64_t number) {
    Message<words> message;
    for (auto &word : message.word)
        word = number;
    return static_cast<Queue<words> *>(at)->bounded_push(message) ? 1 : 0;
}

template <unsigned words> static int pop(void *at, uint64_t *total) {
    Message<words> message;
    if (!static_cast<Queue<words> *>(at)->pop(message))
        return 0;
    uint64_t sum = 0;
    for (auto word : message.word)
        sum += word;
    *total = sum;
    return 1;
}

static size_t size_of(unsigned words) {
    return words == 1 ? sizeof(Queue<1>) : words == 8 ? sizeof(Queue<8>) : 0;
}

extern "C" {

void *peer_lockfree_make(const char *name, unsigned words) {
    try {
        if (size_of(words) == 0)
            return nullptr;
        shared_memory_object::remove(name);
        shared_memory_object memory(create_only, name, read_write);
        memory.truncate(size_of(words));
        auto region = new mapped_region(memory, read_write);
        if (words == 1)
            new (region->get_address()) Queue<1>;
        else
            new (region->get_address()) Queue<8>;
        return region;
    } catch (...) {
        return nullptr;
    }
}

void *peer_lockfree_open(const char *name) {
    try {
        shared_memory_object memory(open_only, name, read_write);
        return new mapped_region(memory, read_write);
    } catch (...) {
        return nullptr;
    }
}

void peer_lockfree_close(void *region) { delete static_cast<mapped_region *>(region); }
void peer_lockfree_remove(const char *name) { shared_memory_object::remove(name); }

int peer_lockfree_push(void *region, unsigned words, uint64_t number) {
    void *at = static_cast<mapped_region *>(region)->get_address();
    return words == 1 ? push<1>(at, number) : push<8>(at, number);
}

int peer_lockfree_pop(void *region, unsigned words, uint64_t *total) {
    void *at = static_cast<mapped_region *>(region)->get_address();
    return words == 1 ? pop<1>(at, total) : pop<8>(at, total);
}
}
