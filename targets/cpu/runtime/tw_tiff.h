/* TIFF 6.0: what the parts of its decoder share. */
#ifndef TW_TIFF_H
#define TW_TIFF_H

#include "tw_image.h"

/* Each fills `room` bytes; false where the data is damaged or too short. */
bool tw_tiff_packbits(tw_bytes b, unsigned char *out, size_t room);
bool tw_tiff_lzw(tw_bytes b, unsigned char *out, size_t room);

#endif
