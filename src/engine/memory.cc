// SPDX-License-Identifier: MPL-2.0
//
// What libtorch's C++ interface tells of memory and tch does not: how much of a device is taken, and by how much at
// most. On the CPU libtorch has no such account, so this allocator keeps one. It also keeps freed blocks for the next
// tensor of the size, as libtorch does on CUDA: glibc would give a block of this size back to the system at once, and
// half of the time would go by in page faults.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

#include <sys/mman.h>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

namespace {

// libtorch's alignment.
constexpr size_t LINE = 64;
// Smaller blocks are glibc's business.
constexpr size_t LARGE = size_t{1} << 20;
// Large blocks are whole pages.
constexpr size_t PAGE = 4096;

struct Block {
    void* data = nullptr;
    size_t size = 0;

    void drop() const {
        if (size < LARGE) {
            std::free(data);
        } else {
            munmap(data, size);
        }
    }
};

struct Given {
    size_t asked;
    Block block;
};

class HostAllocator final : public c10::Allocator {
public:
    c10::DataPtr allocate(size_t asked) override {
        void* data = asked == 0 ? nullptr : take(asked);
        return {data, data, &give, c10::Device(c10::DeviceType::CPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &give; }

    void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

    // Takes the place of the allocator that is there.
    void install() {
        before = c10::GetCPUAllocator();
        // Who sees this allocator sees all of it, whatever the processor.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        c10::SetCPUAllocator(this, 1);
    }

    void release_cached() {
        const std::lock_guard<std::mutex> lock(mutex);
        while (!freed.empty()) {
            drop_oldest();
        }
        usual = current.load();
    }

    void reset_peak() { peak = current.load(); }

    std::atomic<uint64_t> current{0};
    std::atomic<uint64_t> peak{0};
    std::atomic<uint64_t> cached{0};
    std::atomic<uint64_t> limit{UINT64_MAX};

private:
    // The peak since nothing was kept any more, whoever has reset the one that is told.
    std::atomic<uint64_t> usual{0};
    // Whose the blocks are that are freed here and were not given here: libtorch frees oneDNN's memory, which any
    // convolution may have, with the allocator that is there at that time, and not with the one that it came from.
    c10::Allocator* before = nullptr;
    // All that is in use. A lock of its own: to give memory back to the system may take long.
    std::mutex given_mutex;
    std::unordered_map<void*, Given> given;
    std::mutex mutex;
    // The oldest first.
    std::list<Block> freed;

    // With the mutex held.
    void drop_oldest() {
        const Block block = freed.front();
        freed.pop_front();
        cached -= block.size;
        block.drop();
    }

    void* take(size_t asked) {
        const uint64_t now = current.fetch_add(asked) + asked;
        const Block block = now > limit ? Block{} : find(asked);
        if (block.data == nullptr || !note({asked, block})) {
            current -= asked;
            TORCH_CHECK_WITH(OutOfMemoryError, false, "CPU out of memory: a tensor of ", asked, " bytes does not fit");
        }
        raise(peak, now);
        raise(usual, now);
        return block.data;
    }

    // False, and the block is gone, where there is no memory to note it in.
    bool note(const Given& entry) {
        try {
            const std::lock_guard<std::mutex> lock(given_mutex);
            given.emplace(entry.block.data, entry);
            return true;
        } catch (const std::bad_alloc&) {
            entry.block.drop();
            return false;
        }
    }

    static void raise(std::atomic<uint64_t>& most, uint64_t now) {
        uint64_t before = most;
        while (before < now && !most.compare_exchange_weak(before, now)) {
        }
    }

    Block find(size_t asked) {
        if (asked < LARGE) {
            void* data = nullptr;
            return posix_memalign(&data, LINE, asked) == 0 ? Block{data, asked} : Block{};
        }
        const size_t size = (asked + PAGE - 1) / PAGE * PAGE;
        if (size < asked) {
            return {};
        }
        Block block = reuse(asked);
        if (block.data == nullptr) {
            block = map(size);
        }
        if (block.data == nullptr) {
            release_cached();
            block = map(size);
        }
        return block;
    }

    // The smallest block that does, if it is larger by a quarter at most: else memory would be lost in it.
    Block reuse(size_t asked) {
        const std::lock_guard<std::mutex> lock(mutex);
        auto best = freed.end();
        for (auto it = freed.begin(); it != freed.end(); ++it) {
            if (it->size >= asked && it->size <= asked + asked / 4 && (best == freed.end() || it->size <= best->size)) {
                best = it;
            }
        }
        if (best == freed.end()) {
            return {};
        }
        const Block block = *best;
        cached -= block.size;
        freed.erase(best);
        return block;
    }

    // Straight from the system, and not from glibc, which would learn to take blocks of this size from its heaps. No huge
    // pages: on virtual machines clearing them took twice as long.
    static Block map(size_t size) {
        void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return data == MAP_FAILED ? Block{} : Block{data, size};
    }

    static void give(void* data);

    void give_back(void* data) {
        std::unique_lock<std::mutex> lock(given_mutex);
        const auto entry = given.extract(data);
        lock.unlock();
        if (entry.empty()) {
            before->raw_deallocate(data);
            return;
        }
        current -= entry.mapped().asked;
        keep(entry.mapped().block);
    }

    void keep(const Block& block) {
        if (block.size < LARGE) {
            block.drop();
            return;
        }
        const std::lock_guard<std::mutex> lock(mutex);
        try {
            freed.push_back(block);
        } catch (const std::bad_alloc&) {
            block.drop();
            return;
        }
        cached += block.size;
        // Not much more than is in use at the peak anyway.
        while (!freed.empty() && cached + current > usual + usual / 2) {
            drop_oldest();
        }
    }
};

HostAllocator& host() {
    // Never destroyed: tensors may outlive everything.
    static auto* const allocator = new HostAllocator;
    return *allocator;
}

void HostAllocator::give(void* data) {
    if (data != nullptr) {
        host().give_back(data);
    }
}

// CUDA's allocator; an exception where libtorch's CUDA half has not been loaded.
c10::DeviceAllocator& cuda() {
    auto* const allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
    TORCH_CHECK(allocator != nullptr, "there is no allocator for CUDA");
    return *allocator;
}

constexpr size_t ALL = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

// Runs `work` and keeps exceptions out of Rust: `otherwise` is the answer then.
template <typename Work, typename Answer>
Answer quietly(Work work, Answer otherwise) noexcept {
    try {
        return work();
    } catch (...) {
        return otherwise;
    }
}

} // namespace

// Devices are numbers here: -1 is the CPU, others are CUDA's.
extern "C" {

void torchvideo_memory_install() noexcept {
    quietly([] { host().install(); return 0; }, 0);
}

uint64_t torchvideo_memory_current(int device) noexcept {
    if (device < 0) {
        return host().current;
    }
    return quietly([=] { return uint64_t(cuda().getDeviceStats(device).allocated_bytes[ALL].current); }, uint64_t{0});
}

uint64_t torchvideo_memory_peak(int device) noexcept {
    if (device < 0) {
        return host().peak;
    }
    return quietly([=] { return uint64_t(cuda().getDeviceStats(device).allocated_bytes[ALL].peak); }, uint64_t{0});
}

void torchvideo_memory_reset_peak(int device) noexcept {
    if (device < 0) {
        host().reset_peak();
    } else {
        quietly([=] { cuda().resetPeakStats(device); return 0; }, 0);
    }
}

// Bytes that are held for tensors to come.
uint64_t torchvideo_memory_cached(int device) noexcept {
    if (device < 0) {
        return host().cached;
    }
    return quietly(
        [=] {
            const auto stats = cuda().getDeviceStats(device);
            return uint64_t(stats.reserved_bytes[ALL].current - stats.allocated_bytes[ALL].current);
        },
        uint64_t{0});
}

// Bytes of a CUDA device that nobody holds; 0 if it can't be told.
uint64_t torchvideo_memory_free(int device) noexcept {
    return quietly([=] { return uint64_t(cuda().getMemoryInfo(device).first); }, uint64_t{0});
}

void torchvideo_memory_release_cached(int device) noexcept {
    if (device < 0) {
        host().release_cached();
    } else {
        quietly([] { cuda().emptyCache(); return 0; }, 0);
    }
}

void torchvideo_memory_limit(uint64_t bytes) noexcept {
    host().limit = bytes;
}

} // extern "C"
