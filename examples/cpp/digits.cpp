// Classify a digit with the compiled model: reads the pixels of one image from standard input, prints the digit.
//
//     tilewright compile examples/digits/digits.onnx -o out
//     c++ -std=c++17 -Iout examples/cpp/digits.cpp -Lout -ldigits -Wl,-rpath,$PWD/out -o digits
//     ./digits < pixels.txt
#include "digits.hpp"

#include <algorithm>
#include <iostream>
#include <vector>

int main()
{
    std::vector<float> pixels(DIGITS_INPUT_0_ELEMENTS);
    for (float &pixel : pixels) {
        if (!(std::cin >> pixel)) {
            std::cerr << "expected " << pixels.size() << " numbers\n";
            return 1;
        }
    }
    try {
        tilewright::digits_module model;
        const std::vector<float> scores = model.run(pixels);
        std::cout << std::max_element(scores.begin(), scores.end()) - scores.begin() << "\n";
    } catch (const tilewright::error &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
