#ifndef STUB_XRT_DEVICE_H
#define STUB_XRT_DEVICE_H
#include <string>
namespace xrt {
struct uuid {};
struct device {
  explicit device(unsigned) {}
  uuid load_xclbin(const std::string&) { return {}; }
};
}
#endif
