//! Each recipe gives every tensor the type that llama.cpp's `llama-quantize` gives it: models with
//! and without GQA, experts, tied embeddings and rows that do not fill blocks, and the default model.
//!
//! The vectors are made by `fixtures/make_recipe_vectors.py`.

use alti_formats::recipes::{RECIPES, Recipe, RecipeContext};
use alti_tensor::DType;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Model {
    model: String,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    experts: usize,
    tied: bool,
    /// Names and shapes.
    tensors: Vec<(String, Vec<usize>)>,
    /// One letter a tensor, for `RECIPE`, `RECIPE+importance` and `RECIPE+pure`.
    recipes: BTreeMap<String, String>,
}

fn dtype(letter: char) -> DType {
    match letter {
        'f' => DType::F32,
        'h' => DType::F16,
        'b' => DType::BF16,
        '8' => DType::Q8_0,
        '6' => DType::Q6_K,
        '5' => DType::Q5_K,
        '4' => DType::Q4_K,
        'V' => DType::Q5_1,
        'v' => DType::Q5_0,
        'W' => DType::Q4_1,
        'w' => DType::Q4_0,
        other => panic!("no type has the letter {other}"),
    }
}

#[test]
fn types_are_those_of_llama_quantize() {
    let models: Vec<Model> =
        serde_json::from_str(include_str!("fixtures/recipe_vectors.json")).expect("the vectors are JSON");
    for model in models {
        for (way, letters) in &model.recipes {
            let (name, option) = way.split_once('+').unwrap_or((way, ""));
            let recipe = Recipe::by_name(name).expect("a recipe of the table");
            let context = RecipeContext {
                layers: model.layers,
                heads: model.heads,
                kv_heads: model.kv_heads,
                experts: model.experts,
                tied_embeddings: model.tied,
                importance: option == "importance",
                pure: option == "pure",
            };
            for ((tensor, shape), letter) in model.tensors.iter().zip(letters.chars()) {
                let chosen = recipe.dtype_for(&context, tensor, shape);
                assert_eq!(chosen, dtype(letter), "{}, {way}: {tensor} {shape:?}", model.model);
            }
        }
    }
}

#[test]
fn names_are_found_in_any_case_and_by_alias() {
    for recipe in &RECIPES {
        assert_eq!(Recipe::by_name(&recipe.name.to_lowercase()), Some(recipe));
    }
    assert_eq!(Recipe::by_name("q4_k").map(|recipe| recipe.name), Some("Q4_K_M"));
    assert_eq!(Recipe::by_name("Q5_K").map(|recipe| recipe.name), Some("Q5_K_M"));
    assert_eq!(Recipe::by_name("Q9_K"), None);
}
