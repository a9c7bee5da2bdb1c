// A stream of the vendor's interface, for compiling kernels as the vendor's tool does.
#ifndef STUB_HLS_STREAM_H
#define STUB_HLS_STREAM_H
#include <cstdio>
#include <cstdlib>
#include <deque>
namespace hls {
template <class T> class stream {
  std::deque<T> kept;
 public:
  T read() {
    if (kept.empty()) {
      std::puts("an empty stream is read");
      std::abort();
    }
    const T x = kept.front();
    kept.pop_front();
    return x;
  }
  void write(const T& x) { kept.push_back(x); }
  bool empty() const { return kept.empty(); }
};
}
#endif
