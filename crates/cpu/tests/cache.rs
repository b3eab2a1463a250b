//! Pages of keys and values: what is written stays, whoever has the memory granted.

use alti_cpu::{Cpu, Isa};
use alti_tensor::{Backend, CacheGroup, CacheLayout, KvDType};

#[test]
fn granting_pages_changes_none_of_them() {
    for threads in [1, 3] {
        let mut backend = Cpu::new(Isa::detect(), threads).unwrap();
        let groups = vec![CacheGroup { layers: 3, pages: 40 }, CacheGroup { layers: 1, pages: 40 }];
        let layout = CacheLayout { groups, kv_heads: 2, head_dim: 64, dtype: KvDType::BF16 };
        let cache = backend.cache(&layout).unwrap();
        let mut page = Vec::new();
        backend.read_page(&cache, 0, &mut page);
        assert!(page.iter().all(|&byte| byte == 0));
        let len = page.len();
        let contents = |index: u32| vec![index as u8 + 1; len];
        for index in [0, 7, 39] {
            backend.write_page(&cache, index, &contents(index)).unwrap();
        }
        backend.grant_pages(&cache, 7..8);
        backend.grant_pages(&cache, 0..40);
        backend.grant_pages(&cache, 40..40);
        for index in 0..40 {
            page.clear();
            backend.read_page(&cache, index, &mut page);
            let expected = if [0, 7, 39].contains(&index) { contents(index) } else { vec![0; len] };
            assert!(page == expected, "page {index}");
        }
    }
}
