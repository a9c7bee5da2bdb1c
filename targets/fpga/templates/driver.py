"""Runs the kernel on a board from Python: floats in, floats out.

    from driver import Kernel
    kernel = Kernel("@TOP@.bit")        # PYNQ boards: overlay with its .hwh beside it
    kernel = Kernel("@TOP@.xclbin")     # XRT: Alveo cards, embedded boards with XRT
    outputs = kernel(x)
"""

import numpy as np

# name, shape of the model, how its axes are permuted for the kernel, bits behind the point, type of the codes, range
INPUTS = @INPUTS@
OUTPUTS = @OUTPUTS@


def encode(x, port):
    """Floats of the model's shape to the kernel's codes."""
    x = np.asarray(x, np.float64).reshape(port["shape"])
    if port["perm"]:
        x = x.transpose(port["perm"])
    low, high = port["range"]
    return np.ascontiguousarray(np.clip(np.floor(x * 2.0 ** port["frac"] + 0.5), low, high).astype(port["dtype"]))


def decode(codes, port):
    """The kernel's codes to floats of the model's shape."""
    y = codes.reshape(port["kernel_shape"]).astype(np.float32) * np.float32(2.0 ** -port["frac"])
    return y.transpose(port["perm"]) if port["perm"] else y


class Kernel:
    def __init__(self, path):
        self.xrt = path.endswith(".xclbin")
        sizes = [(int(np.prod(p["kernel_shape"])), np.dtype(p["dtype"])) for p in INPUTS + OUTPUTS]
        if self.xrt:
            import pyxrt

            self.device = pyxrt.device(0)
            uuid = self.device.load_xclbin(pyxrt.xclbin(path))
            self.kernel = pyxrt.kernel(self.device, uuid, "@TOP@", pyxrt.kernel.shared)
            direction = pyxrt.xclBOSyncDirection
            self.to, self.back = direction.XCL_BO_SYNC_BO_TO_DEVICE, direction.XCL_BO_SYNC_BO_FROM_DEVICE
            self.objects = [pyxrt.bo(self.device, n * t.itemsize, pyxrt.bo.normal, self.kernel.group_id(i))
                            for i, (n, t) in enumerate(sizes)]
            self.buffers = [np.asarray(o.map()).view(t) for o, (_, t) in zip(self.objects, sizes)]
        else:
            from pynq import Overlay, allocate

            self.overlay = Overlay(path)
            self.kernel = getattr(self.overlay, "@TOP@_1", None) or getattr(self.overlay, "@TOP@_0")
            self.buffers = [allocate(shape=(n,), dtype=t) for n, t in sizes]

    def __call__(self, *arrays):
        ins, outs = self.buffers[:len(INPUTS)], self.buffers[len(INPUTS):]
        for buffer, x, port in zip(ins, arrays, INPUTS):
            buffer[:] = encode(x, port).ravel()
        if self.xrt:
            for o in self.objects[:len(INPUTS)]:
                o.sync(self.to)
            self.kernel(*self.objects).wait()
            for o in self.objects[len(INPUTS):]:
                o.sync(self.back)
        else:
            for buffer in ins:
                buffer.flush()
            for name, buffer in zip([p["port"] for p in INPUTS + OUTPUTS], self.buffers):
                setattr(self.kernel.register_map, name + "_1", buffer.device_address & 0xFFFFFFFF)
                setattr(self.kernel.register_map, name + "_2", buffer.device_address >> 32)
            self.kernel.register_map.CTRL.AP_START = 1
            while not self.kernel.register_map.CTRL.AP_DONE:
                pass
            for buffer in outs:
                buffer.invalidate()
        return [decode(np.array(b), port) for b, port in zip(outs, OUTPUTS)]
