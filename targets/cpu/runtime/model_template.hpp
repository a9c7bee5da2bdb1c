// @TITLE@, compiled by Tilewright @VERSION@ for @MACHINE@: C++17 interface over @PREFIX@.h.
//
//     tilewright::@PREFIX@_module model;            // or model(threads)
//     model.run(@EXAMPLE@);  // throws tilewright::error
//
// Tensors are dense and row-major, in this order:
@TENSORS@
#ifndef @GUARD@
#define @GUARD@

#include "@PREFIX@.h"

#ifndef TILEWRIGHT_CPP_1
#define TILEWRIGHT_CPP_1

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace tilewright {

// A call failed: what() is the message, status() one of enum tw_status.
class error : public std::runtime_error {
public:
    error(std::int32_t status, const std::string &message) : std::runtime_error(message), status_(status) {}
    std::int32_t status() const noexcept { return status_; }

private:
    std::int32_t status_;
};

// The bits of 16-bit floating-point numbers.
struct float16 { std::uint16_t bits; };
struct bfloat16 { std::uint16_t bits; };

// UTF-8 that ends with a zero byte; what a run gives out is valid until the next run, or the end of its inputs.
using text = const char *;

// A pointer and a number of elements; made from a vector, an array, a span, or both parts.
template <class T> class view {
public:
    constexpr view(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class Container,
              class = std::enable_if_t<std::is_convertible_v<decltype(std::data(std::declval<Container &>())), T *>>>
    constexpr view(Container &&container) noexcept : data_(std::data(container)), size_(std::size(container)) {}
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }

private:
    T *data_;
    std::size_t size_;
};

namespace detail {
inline std::size_t product(const std::vector<std::int64_t> &shape)
{
    std::size_t elements = 1;
    for (const std::int64_t size : shape) elements *= static_cast<std::size_t>(size);
    return elements;
}

template <class T> void expect(view<T> got, std::size_t elements, const char *what)
{
    if (got.size() != elements) {
        throw error(TW_WRONG_SIZE, std::string(what) + ": expected " + std::to_string(elements) + " elements, got " +
                                       std::to_string(got.size()));
    }
}
} // namespace detail

} // namespace tilewright

#endif // TILEWRIGHT_CPP_1

namespace tilewright {

// One instance of the model; movable, not copyable; run by one thread at a time.
class @PREFIX@_module {
public:
@SIZES@
    // threads: 0 for the processors that this process may use.
    explicit @PREFIX@_module(std::int32_t threads = 0) : @PREFIX@_module(with_threads(threads)) {}

    explicit @PREFIX@_module(tw_options options)
    {
        char message[512] = "";
        options.message = message;
        options.message_bytes = sizeof message;
        const std::int32_t status = @PREFIX@_create(&options, &model_);
        if (status != TW_OK) {
            throw error(status, message[0] ? message : @PREFIX@_status_text(status));
        }
    }

    @PREFIX@_module(@PREFIX@_module &&other) noexcept : model_(std::exchange(other.model_, nullptr))@MOVE_STATE@ {}
    @PREFIX@_module &operator=(@PREFIX@_module &&other) noexcept
    {
        std::swap(model_, other.model_);@SWAP_STATE@
        return *this;
    }
    @PREFIX@_module(const @PREFIX@_module &) = delete;
    @PREFIX@_module &operator=(const @PREFIX@_module &) = delete;
    ~@PREFIX@_module() { @PREFIX@_destroy(model_); }

    // Runs on the caller's buffers, which have exactly as many elements as the tensors, without copies or allocation.
    void run(@PARAMETERS@)
    {
@SHAPED@@EXPECTS@
        const void *const inputs[] = { @INPUT_POINTERS@ };
        void *const outputs[] = { @OUTPUT_POINTERS@ };
        check(@PREFIX@_run(model_, inputs, outputs));
    }
@RETURNING_RUN@@METHODS@
    std::int32_t thread_count() const noexcept { return @PREFIX@_thread_count(model_); }
    static const char *manifest() noexcept { return @PREFIX@_manifest(); }
    @PREFIX@_model *handle() const noexcept { return model_; }

private:
    static tw_options with_threads(std::int32_t threads) noexcept
    {
        tw_options options = TW_OPTIONS_INIT;
        options.threads = threads;
        return options;
    }

    void check(std::int32_t status) const
    {
        if (status != TW_OK) {
            throw error(status, status == TW_BUSY ? @PREFIX@_status_text(status) : @PREFIX@_error_message(model_));
        }
    }

    @PREFIX@_model *model_ = nullptr;@STATE@
};

} // namespace tilewright

#endif
