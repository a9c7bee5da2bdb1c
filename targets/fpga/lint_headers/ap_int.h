// Declarations that stand for the vendor's integers while the kernel is parsed: operators are taken as built in.
#ifndef LINT_AP_INT_H
#define LINT_AP_INT_H
template <int W> struct ap_uint;
struct ap_range {
  ap_range& operator=(long long);
  unsigned long to_uint64() const;
};
template <int W> struct ap_int {
  ap_int();
  ap_int(long long);
  template <int V> ap_int(const ap_int<V>&);
  template <int V> ap_int(const ap_uint<V>&);
  operator long long() const;
  ap_int& operator+=(long long);
};
template <int W> struct ap_uint {
  ap_uint();
  ap_uint(long long);
  template <int V> ap_uint(const ap_int<V>&);
  template <int V> ap_uint(const ap_uint<V>&);
  operator long long() const;
  ap_uint& operator+=(long long);
  ap_range range(int high, int low) const;
};
#endif
