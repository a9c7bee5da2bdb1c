#ifndef STUB_XRT_BO_H
#define STUB_XRT_BO_H
#include "xrt_device.h"
#include <cstddef>
#include <memory>
#include <vector>
enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };
namespace xrt {
// What the host writes reaches the device by `sync` only, and the other way round.
struct bo {
  struct Both {
    std::vector<char> host, device;
  };
  std::shared_ptr<Both> both;
  bo(const xrt::device&, std::size_t bytes, int) : both(std::make_shared<Both>()) {
    both->host.resize(bytes);
    both->device.resize(bytes);
  }
  template <class T> T map() { return reinterpret_cast<T>(both->host.data()); }
  void sync(xclBOSyncDirection d) { (d == XCL_BO_SYNC_BO_TO_DEVICE ? both->device = both->host : both->host = both->device); }
};
}
#endif
