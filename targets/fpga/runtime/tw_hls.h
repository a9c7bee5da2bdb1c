// What the generated kernel is written in: integers of any width, packets, streams, rounding.
// With TW_VITIS these are the vendor's ap_int and hls::stream.  Without it they are the small classes below, which any
// C++14 compiler takes: they count every value that does not fit its type, and every read of an empty stream.
#ifndef TW_HLS_H
#define TW_HLS_H

#ifdef TW_VITIS
#include <ap_axi_sdata.h>
#include <ap_int.h>
#include <hls_stream.h>
#include <stdint.h>
namespace tw {
template <int W> using sint = ap_int<W>;
template <int W> using uint = ap_uint<W>;
template <int W> using srom = ap_int<W>;
template <int W> using urom = ap_uint<W>;
template <class T> using stream = hls::stream<T>;
// N elements of type T as one transfer of an AXI4 stream.
template <class T, int N> using beat = ap_axiu<8 * int(sizeof(T)) * N, 0, 0, 0>;
}
#else
#include <stddef.h>
#include <stdint.h>
namespace tw {
inline long& faults() {
  static long count = 0;
  return count;
}
template <int W, bool SIGNED> class integer {
  long long v;
 public:
  static constexpr long long LOW = SIGNED ? -(1LL << (W - 1)) : 0;
  static constexpr long long HIGH = SIGNED ? (1LL << (W - 1)) - 1 : (1LL << W) - 1;
  integer() : v(0) {}
  integer(long long x) : v(x) {
    if (x < LOW || x > HIGH) ++faults();
  }
  template <int V, bool S> integer(const integer<V, S>& x) : integer((long long)x) {}
  operator long long() const { return v; }
  integer& operator+=(long long x) { return *this = integer(v + x); }
};
template <int W> using sint = integer<W, true>;
template <int W> using uint = integer<W, false>;

template <int BYTES> struct plain;
template <> struct plain<1> { typedef int8_t s; typedef uint8_t u; };
template <> struct plain<2> { typedef int16_t s; typedef uint16_t u; };
template <> struct plain<4> { typedef int32_t s; typedef uint32_t u; };
template <> struct plain<8> { typedef int64_t s; typedef uint64_t u; };
constexpr int bytes_for(int w) { return w <= 8 ? 1 : w <= 16 ? 2 : w <= 32 ? 4 : 8; }
template <int W> using srom = typename plain<bytes_for(W)>::s;
template <int W> using urom = typename plain<bytes_for(W)>::u;

// A queue without a bound, in memory that grows: the C++ library's takes longer to compile than most kernels.
template <class T> class stream {
  T* kept = nullptr;
  size_t room = 0, filled = 0, next = 0;
 public:
  stream() {}
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() { delete[] kept; }
  T read() {
    if (next == filled) {
      ++faults();
      return T();
    }
    const T x = kept[next++];
    if (next == filled) next = filled = 0;
    return x;
  }
  void write(const T& x) {
    if (filled == room) {
      const size_t left = filled - next;
      T* const to = left < room / 2 ? kept : new T[room = 2 * room + 16];
      for (size_t i = 0; i < left; ++i) to[i] = kept[next + i];
      if (to != kept) delete[] kept;
      kept = to;
      filled = left;
      next = 0;
    }
    kept[filled++] = x;
  }
  bool empty() const { return next == filled; }
};

template <class T, int N> struct beat {
  T data[N];
  bool last;
};
}
#endif

namespace tw {
// N elements that cross a stream together.
template <class T, int N> struct vec {
  T v[N];
};

// A transfer of an AXI4 stream and its elements, the first one in the lowest bits.
template <class T, int N> vec<T, N> elements(const beat<T, N>& b) {
#pragma HLS INLINE
  vec<T, N> x;
  for (int l = 0; l < N; ++l) {
#pragma HLS UNROLL
#ifdef TW_VITIS
    const int w = 8 * sizeof(T);
    x.v[l] = T(b.data.range(l * w + w - 1, l * w).to_uint64());
#else
    x.v[l] = b.data[l];
#endif
  }
  return x;
}

template <class T, int N> beat<T, N> to_beat(const vec<T, N>& x, bool last) {
#pragma HLS INLINE
  beat<T, N> b;
  for (int l = 0; l < N; ++l) {
#pragma HLS UNROLL
#ifdef TW_VITIS
    const int w = 8 * sizeof(T);
    b.data.range(l * w + w - 1, l * w) = ap_uint<8 * sizeof(T)>(x.v[l]);
#else
    b.data[l] = x.v[l];
#endif
  }
#ifdef TW_VITIS
  b.keep = -1;
  b.strb = -1;
#endif
  b.last = last;
  return b;
}

template <class OUT, class IN> OUT saturate(IN x, long long low, long long high) {
#pragma HLS INLINE
  if (x < low) return OUT(low);
  if (x > high) return OUT(high);
  return OUT(x);
}

template <int SHIFT, bool RIGHT> struct shifted {  // to nearest, halves up
  template <class IN> static auto of(IN x) -> decltype((x + 1LL) >> SHIFT) { return (x + (1LL << (SHIFT - 1))) >> SHIFT; }
};
template <int SHIFT> struct shifted<SHIFT, false> {
  template <class IN> static auto of(IN x) -> decltype(x * 1LL) { return x * (1LL << (SHIFT > 0 ? 0 : -SHIFT)); }
};

// x / 2^SHIFT to nearest, saturated.
template <class OUT, int SHIFT, class IN> OUT round(IN x, long long low, long long high) {
#pragma HLS INLINE
  return saturate<OUT>(shifted<SHIFT, (SHIFT > 0)>::of(x), low, high);
}

// x / 2^SHIFT to nearest, halves to even, plus zero, saturated.
template <class OUT, int SHIFT, class IN> OUT round_even(IN x, long long zero, long long low, long long high) {
#pragma HLS INLINE
  if (SHIFT <= 0) return saturate<OUT>(shifted<SHIFT, false>::of(x) + zero, low, high);
  const auto down = (x + 0LL) >> (SHIFT > 0 ? SHIFT : 0);
  const auto rest = x - down * (1LL << (SHIFT > 0 ? SHIFT : 0));
  const long long half = 1LL << (SHIFT > 0 ? SHIFT - 1 : 0);
  const bool up = rest > half || (rest == half && (down & 1) == 1);
  return saturate<OUT>(down + zero + (up ? 1 : 0), low, high);
}

// Truncated towards zero; 0 for a divisor of 0.
template <class OUT, class A, class B> OUT divide(A a, B b) {
#pragma HLS INLINE
  return b == 0 ? OUT(0) : OUT(a / b);
}

// The integer part of the square root.
inline uint<32> root(uint<62> x) {
#pragma HLS INLINE
  uint<62> rest = x;
  uint<62> found = 0;
  for (int bit = 60; bit >= 0; bit -= 2) {
#pragma HLS UNROLL
    const uint<62> trial = found + (1LL << bit);
    if (rest >= trial) {
      rest = rest - trial;
      found = (found >> 1) + (1LL << bit);
    } else {
      found = found >> 1;
    }
  }
  return uint<32>(found);
}
}
#endif
