//! Says in words what SHOW KERNEL_PATH says in figures.

use crate::table::Table;

/// How many of the replies the kernel carried, or why none.
pub fn kernel_share(show_kernel_path: &Table) -> String {
    let value = |name: &str| show_kernel_path.find("name", name).map_or("", |row| row.value("value").unwrap_or(""));
    if value("enabled") != "yes" {
        return format!("It has no kernel path here: {}.", value("reason"));
    }
    let count = |name: &str| value(name).parse::<f64>().unwrap_or_default();
    let (kernel, user) = (count("replies_kernel"), count("replies_user"));
    format!("{:.1} % of the replies never left the kernel.", 100.0 * kernel / (kernel + user).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_or_a_reason() {
        let table = |rows: &[[&str; 2]]| Table {
            columns: ["name", "value"].map(str::to_owned).to_vec(),
            rows: rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect(),
        };
        let on = table(&[["enabled", "yes"], ["replies_kernel", "3"], ["replies_user", "1"]]);
        assert_eq!(kernel_share(&on), "75.0 % of the replies never left the kernel.");
        let off = table(&[["enabled", "no"], ["reason", "not root"]]);
        assert_eq!(kernel_share(&off), "It has no kernel path here: not root.");
    }
}
