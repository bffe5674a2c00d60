//! The two orders of a query or key head's rows.
//!
//! Rotary embedding turns pairs of elements. Hugging Face pairs `(j, j + d/2)`, GGUF's `llama` pairs `(2j, 2j + 1)`; its
//! converter therefore moves the rows of q and k: row `2j + t` of a head there is row `t·d/2 + j` here. A and the other
//! linears stay as they are.

/// Where Hugging Face keeps GGUF's row `i`, in heads of `d` rows.
pub const fn hf_row(i: usize, d: usize) -> usize {
    if d < 2 {
        return i;
    }
    let (head, row) = (i / d, i % d);
    head * d + row % 2 * (d / 2) + row / 2
}

/// Where GGUF keeps Hugging Face's row `i`.
pub const fn gguf_row(i: usize, d: usize) -> usize {
    if d < 2 {
        return i;
    }
    let (head, row) = (i / d, i % d);
    head * d + row % (d / 2) * 2 + row / (d / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_inverse_and_pairs_stay_pairs() {
        for d in [2, 4, 6, 64, 128] {
            for i in 0..3 * d {
                assert_eq!(gguf_row(hf_row(i, d), d), i);
                assert_eq!(hf_row(gguf_row(i, d), d), i);
                assert_eq!(hf_row(i, d) / d, i / d, "a row stays in its head");
            }
            for j in 0..d / 2 {
                assert_eq!((hf_row(2 * j, d), hf_row(2 * j + 1, d)), (j, j + d / 2));
            }
        }
    }
}
