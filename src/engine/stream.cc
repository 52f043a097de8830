// SPDX-License-Identifier: MPL-2.0
//
// Streams and events of a CUDA device, and copies that nobody waits for, over libtorch's interface for any device:
// nothing of CUDA is included or linked. Only called for devices whose half of libtorch has been opened.
//
// A function that fails says why; the text is the caller's to free. None lets an exception through.

#include <cstdint>
#include <cstring>
#include <exception>
#include <utility>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {

const c10::impl::VirtualGuardImpl& cuda() {
    static const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    return guard;
}

c10::Device device_of(int index) {
    return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}

c10::Stream stream_of(int device, int64_t id) {
    return c10::Stream(c10::Stream::UNSAFE, device_of(device), id);
}

template <typename Work>
char* attempt(Work work) noexcept {
    try {
        work();
        return nullptr;
    } catch (const c10::Error& error) {
        return strdup(error.what_without_backtrace());
    } catch (const std::exception& error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("an exception without a message");
    }
}

} // namespace

extern "C" {

// One of the device's pool.
char* torchvideo_stream_new(int device, int64_t* id) noexcept {
    return attempt([=] { *id = cuda().getStreamFromGlobalPool(device_of(device)).id(); });
}

// The one that this thread's work goes to.
char* torchvideo_stream_current(int device, int64_t* id) noexcept {
    return attempt([=] { *id = cuda().getStream(device_of(device)).id(); });
}

// Lets this thread's work go to stream `id`; `before` is where it went.
char* torchvideo_stream_exchange(int device, int64_t id, int64_t* before) noexcept {
    return attempt([=] { *before = cuda().exchangeStream(stream_of(device, id)).id(); });
}

// An event that comes when stream `id` has done what it has been given.
char* torchvideo_stream_record(int device, int64_t id, c10::Event** event) noexcept {
    return attempt([=] {
        c10::Event recorded(c10::DeviceType::CUDA);
        recorded.record(stream_of(device, id));
        *event = new c10::Event(std::move(recorded));
    });
}

// Lets stream `id` wait for the event.
char* torchvideo_event_block(const c10::Event* event, int device, int64_t id) noexcept {
    return attempt([=] { event->block(stream_of(device, id)); });
}

// Lets this thread wait for the event.
char* torchvideo_event_wait(const c10::Event* event) noexcept {
    return attempt([=] { event->synchronize(); });
}

void torchvideo_event_free(c10::Event* event) noexcept {
    delete event;
}

// Copies without waiting, if one of them is on a device and the other pinned or on the same.
char* torchvideo_copy(const at::Tensor* to, const at::Tensor* from) noexcept {
    return attempt([=] { to->copy_(*from, /*non_blocking=*/true); });
}

} // extern "C"
