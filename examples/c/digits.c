/* Classify a digit with the compiled model: reads the pixels of one image from standard input, prints the digit.
 *
 *     tilewright compile examples/digits/digits.onnx -o out
 *     cc -std=c11 -Iout examples/c/digits.c -Lout -ldigits -Wl,-rpath,$PWD/out -o digits
 *     ./digits < pixels.txt
 */
#include "digits.h"

#include <stdio.h>

int main(void)
{
    /* The sizes are known when this is compiled, so nothing here needs memory from the system. */
    static float pixels[DIGITS_INPUT_0_ELEMENTS];
    static float scores[DIGITS_OUTPUT_0_ELEMENTS];
    for (size_t i = 0; i < DIGITS_INPUT_0_ELEMENTS; i++) {
        if (scanf("%f", &pixels[i]) != 1) {
            fprintf(stderr, "expected %d numbers\n", DIGITS_INPUT_0_ELEMENTS);
            return 1;
        }
    }

    char message[256] = "";
    tw_options options = TW_OPTIONS_INIT;
    options.message = message;
    options.message_bytes = sizeof message;
    digits_model *model;
    int32_t status = digits_create(&options, &model);
    if (status != TW_OK) {
        fprintf(stderr, "create: %s\n", message[0] ? message : digits_status_text(status));
        return 1;
    }

    const void *inputs[] = { pixels };
    void *outputs[] = { scores };
    status = digits_run(model, inputs, outputs);
    if (status != TW_OK) {
        fprintf(stderr, "run: %s\n", digits_error_message(model));
        digits_destroy(model);
        return 1;
    }

    size_t best = 0;
    for (size_t i = 1; i < DIGITS_OUTPUT_0_ELEMENTS; i++) {
        best = scores[i] > scores[best] ? i : best;
    }
    printf("%zu\n", best);
    digits_destroy(model);
    return 0;
}
