// Boost.Interprocess: its message queue, polled or with its blocking calls.
#include <boost/interprocess/ipc/message_queue.hpp>

using boost::interprocess::message_queue;

extern "C" {

void *peer_boost_make(const char *name, size_t slots, size_t bytes) {
    try {
        message_queue::remove(name);
        return new message_queue(boost::interprocess::create_only, name, slots, bytes);
    } catch (...) {
        return nullptr;
    }
}

void *peer_boost_open(const char *name) {
    try {
        return new message_queue(boost::interprocess::open_only, name);
    } catch (...) {
        return nullptr;
    }
}

void peer_boost_close(void *queue) { delete static_cast<message_queue *>(queue); }
void peer_boost_remove(const char *name) { message_queue::remove(name); }

int peer_boost_try_send(void *queue, const void *bytes, size_t len) {
    try {
        return static_cast<message_queue *>(queue)->try_send(bytes, len, 0) ? 1 : 0;
    } catch (...) {
        return -1;
    }
}

int peer_boost_send(void *queue, const void *bytes, size_t len) {
    try {
        static_cast<message_queue *>(queue)->send(bytes, len, 0);
        return 1;
    } catch (...) {
        return -1;
    }
}

int peer_boost_receive(void *queue, void *bytes, size_t len) {
    try {
        size_t got;
        unsigned priority;
        static_cast<message_queue *>(queue)->receive(bytes, len, got, priority);
        return 1;
    } catch (...) {
        return -1;
    }
}

int peer_boost_try_receive(void *queue, void *bytes, size_t len) {
    try {
        size_t got;
        unsigned priority;
        return static_cast<message_queue *>(queue)->try_receive(bytes, len, got, priority) ? 1 : 0;
    } catch (...) {
        return -1;
    }
}
}
