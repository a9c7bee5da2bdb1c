// Declarations that stand for the vendor's streams while the kernel is parsed.
#ifndef LINT_HLS_STREAM_H
#define LINT_HLS_STREAM_H
namespace hls {
template <class T> struct stream {
  stream();
  T read();
  void write(const T&);
  bool empty() const;
};
}
#endif
