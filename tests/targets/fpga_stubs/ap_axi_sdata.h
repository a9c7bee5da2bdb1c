#ifndef STUB_AP_AXI_SDATA_H
#define STUB_AP_AXI_SDATA_H
#include <ap_int.h>
template <int W, int USER, int ID, int DEST> struct ap_axiu {
  ap_uint<W> data;
  ap_uint<(W + 7) / 8> keep, strb;
  ap_uint<1> last;
};
#endif
