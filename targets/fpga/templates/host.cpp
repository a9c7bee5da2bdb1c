// Runs the kernel through XRT on codes that are already integers: @TOP@.xclbin, one file per input and output.
// usage: host @TOP@.xclbin input0.bin ... output0.bin ...
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <vector>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

struct Port { const char* name; std::size_t bytes; };
static const Port INPUTS[] = {@INPUTS@};
static const Port OUTPUTS[] = {@OUTPUTS@};
// memory that the kernel works in; those with a name hold the content of that file (beside the .xclbin)
static const std::vector<Port> MEMORIES = {@MEMORIES@};
static const int INS = sizeof(INPUTS) / sizeof(Port), OUTS = sizeof(OUTPUTS) / sizeof(Port);

int main(int argc, char** argv) {
  if (argc != 2 + INS + OUTS) {
    std::fprintf(stderr, "usage: %s @TOP@.xclbin, %d input files, %d output files\n", argv[0], INS, OUTS);
    return 2;
  }
  xrt::device device(0);
  xrt::kernel kernel(device, device.load_xclbin(argv[1]), "@TOP@");
  std::vector<xrt::bo> buffers;
  for (int n = 0; n < INS + OUTS; ++n)
    buffers.emplace_back(device, n < INS ? INPUTS[n].bytes : OUTPUTS[n - INS].bytes, kernel.group_id(n));
  for (int n = 0; n < INS; ++n) {
    std::ifstream file(argv[2 + n], std::ios::binary);
    if (!file.read(buffers[n].map<char*>(), INPUTS[n].bytes)) {
      std::fprintf(stderr, "%s: expected %zu bytes for %s\n", argv[2 + n], INPUTS[n].bytes, INPUTS[n].name);
      return 1;
    }
    buffers[n].sync(XCL_BO_SYNC_BO_TO_DEVICE);
  }
  for (const Port& m : MEMORIES) {
    buffers.emplace_back(device, m.bytes, kernel.group_id(buffers.size()));
    if (!m.name[0]) continue;
    std::ifstream file(m.name, std::ios::binary);
    if (!file.read(buffers.back().map<char*>(), m.bytes)) {
      std::fprintf(stderr, "%s: expected %zu bytes\n", m.name, m.bytes);
      return 1;
    }
    buffers.back().sync(XCL_BO_SYNC_BO_TO_DEVICE);
  }
  xrt::run run(kernel);
  for (std::size_t n = 0; n < buffers.size(); ++n) run.set_arg(n, buffers[n]);
  run.start();
  run.wait();
  for (int n = 0; n < OUTS; ++n) {
    buffers[INS + n].sync(XCL_BO_SYNC_BO_FROM_DEVICE);
    std::ofstream file(argv[2 + INS + n], std::ios::binary);
    file.write(buffers[INS + n].map<char*>(), OUTPUTS[n].bytes);
  }
  return 0;
}
